"""What was revoked since a backup is not valid again after `hourpass restore`, and the rest is."""

import asyncio
import shutil
import sqlite3
import subprocess
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from click.testing import Result
from httpx import AsyncClient

from app.backup import comparison, make_safe, sqlite_files
from app.database import migrations
from app.database.timelines import IDS_AFTER_BACKUP
from tests.support.apps import started_client
from tests.support.authenticator import enroll, log_in_with
from tests.support.backups import BackupCommands, backups, names_in, programs_of, succeeded
from tests.support.key_calls import KeyCalls, keys_of
from tests.support.markers import on_postgresql, on_sqlite
from tests.support.settings import Clock, make_settings
from tests.support.users import (
    ARTHUR,
    GALAHAD,
    LANCELOT,
    Person,
    all_tokens_like,
    assert_problem,
    bearer,
    kid_of,
    log_in,
    open_session,
    register,
    renew,
    revoked,
    said_in,
    token_holds,
)

__all__ = ["backups"]

MORDRED = {**LANCELOT, "username": "mordred", "email": "mordred@camelot.example"}
PERCIVAL = {**LANCELOT, "username": "percival", "email": "percival@camelot.example"}
BORS = {**LANCELOT, "username": "bors", "email": "bors@camelot.example"}
NEW_PASSWORD = "achieved the grail"
SECRET_KEY = "q7Zr2pX9mK4vB8nL1cW6tY3hD5gF0sJa"
OTHER_SECRET_KEY = "M3bV7xQ1zL9kP5wR8nT2cY6hG4fD0sJu"


@asynccontextmanager
async def service(url: str, clock: Clock, **settings: object) -> AsyncIterator[AsyncClient]:
    async with started_client(make_settings(url, **settings), clock) as client:
        yield client


async def admin_call(client: AsyncClient, method: str, path: str, **body: Any) -> Any:
    headers = bearer(await log_in(client, ARTHUR))
    response = await client.request(method, path, json=body, headers=headers)
    assert response.is_success, response.text
    return response.json()


def scopes_of(token: str) -> set[str]:
    return set(said_in(token).get("scope", "").split())


async def refused_to_log_in(client: AsyncClient, person: Person) -> bool:
    response = await client.post("/token", json=person)
    assert response.status_code in (200, 400, 401, 403), response.text
    return response.status_code != 200


async def test_what_was_revoked_since_the_backup_is_not_valid_again(
    backups: BackupCommands, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(comparison, "BATCH_SIZE", 2)  # so that there are several
    async with service(backups.url, clock) as client:
        ids = {
            person["username"]: await register(client, person)
            for person in (LANCELOT, GALAHAD, MORDRED, PERCIVAL)
        }
        percival = f"/users/{ids['percival']}"
        await admin_call(client, "PATCH", percival, scopes=["predict", "train"], is_admin=True)
        first_cursor = (await client.get("/revocations")).json()["cursor"]
        valid, ended = [await log_in(client, LANCELOT) for _ in range(2)]
        lost = [await log_in(client, person) for person in (GALAHAD, MORDRED, PERCIVAL)]

        await backups.back_up()

        assert (await client.post("/revoke", data={"token": ended})).is_success
        await admin_call(client, "PATCH", f"/users/{ids['galahad']}", is_enabled=False)
        await admin_call(client, "DELETE", f"/remove-user/{ids['mordred']}")
        await admin_call(client, "PATCH", percival, scopes=["predict"], is_admin=False)
        await register(client, BORS)
        later = [await log_in(client, person) for person in (BORS, PERCIVAL)]
        cursor = (await client.get("/revocations")).json()["cursor"]
        published = await revoked(client)

    output = await backups.restore()

    for line in ("disabled users: galahad, mordred", "fewer scopes: percival", "user.disable"):
        assert line in output
    async with service(backups.restored_url, clock) as client:
        for token in (ended, *lost, *later):
            assert not await token_holds(client, token)
        assert await token_holds(client, valid)
        listed = set(await revoked(client))
        assert listed >= {*published, *map(all_tokens_like, later)}  # for guards
        for known in (first_cursor, cursor):
            response = await client.get("/revocations", params={"after": known})
            assert_problem(response, 410, "cursor_unknown")
        for person in (GALAHAD, MORDRED, BORS):
            assert await refused_to_log_in(client, person)
        fresh = await log_in(client, PERCIVAL)
        assert {"predict", "train", "admin"} & scopes_of(fresh) == {"predict"}
        assert said_in(fresh)["epoch"] not in {said_in(t)["epoch"] for t in (lost[2], later[1])}
        assert await token_holds(client, fresh)
        assert await register(client, BORS) > IDS_AFTER_BACKUP
        [entry] = (await admin_call(client, "GET", "/audit?action=service.restore"))["entries"]
        assert entry["details"]["compared"] == "yes"


async def test_sessions_keys_and_codes_that_were_revoked_since_do_not_work_again(
    backups: BackupCommands, clock: Clock
) -> None:
    async with service(backups.url, clock) as client:
        user_id = await register(client, LANCELOT)
        await admin_call(client, "PATCH", f"/users/{user_id}", scopes=["predict"])
        used, ended, kept = [await open_session(client, LANCELOT) for _ in range(3)]
        keys = KeyCalls(client, kept["token"])
        kept_key, revoked_key = (await keys.create())["id"], (await keys.create())["id"]
        narrowed_key = await keys.create(scopes=["predict"])
        used_code, kept_code = [
            (await admin_call(client, "POST", "/invitations"))["code"] for _ in range(2)
        ]

        await backups.back_up()

        await keys.revoke(revoked_key)
        await keys.change(narrowed_key["id"], scopes=[])
        new_key = (await keys.create())["id"]
        renewed = (await renew(client, used["refresh_token"])).json()
        path = f"/me/sessions/{said_in(ended['token'])['sid']}"
        assert (await client.delete(path, headers=bearer(ended["token"]))).is_success
        assert await register(client, {**BORS, "invitation": used_code})

    output = await backups.restore()

    assert "suspended API keys: 2" in output
    assert "api_key.revoke" in output
    async with service(backups.restored_url, clock, registration="invite") as client:
        for session in (used, renewed, ended):
            assert (await renew(client, session["refresh_token"])).status_code == 400
        assert (await renew(client, kept["refresh_token"])).status_code == 200
        keys = await keys_of(client, LANCELOT)
        assert (await keys.get(revoked_key))["status"] == "suspended"
        assert (await keys.get(kept_key))["status"] == "active"
        assert any(value.startswith(f"sid:{new_key}.") for value in await revoked(client))
        await keys.act(narrowed_key["id"], "resume")
        response = await client.get("/verify", headers=bearer(narrowed_key["key"]))
        assert response.status_code == 200
        again = await client.post("/register-user", json={**BORS, "invitation": used_code})
        assert_problem(again, 403, "invalid_code")
        await register(client, {**BORS, "invitation": kept_code})


async def test_what_a_user_no_longer_uses_does_not_open_the_account_again(
    backups: BackupCommands, clock: Clock
) -> None:
    """A password or mailbox may have been changed because another person knew it."""
    async with service(backups.url, clock) as client:
        for person in (LANCELOT, GALAHAD, PERCIVAL):
            await register(client, person)
        await backups.back_up()
        proof = {"password": LANCELOT["password"]}
        for method, path, body in (
            ("PATCH", "/me", {**proof, "email": "lake@avalon.example"}),
            ("POST", "/me/password", {**proof, "new_password": NEW_PASSWORD}),
        ):
            headers = bearer(await log_in(client, LANCELOT))
            assert (await client.request(method, path, json=body, headers=headers)).is_success
        await enroll(client, GALAHAD, clock)

    output = await backups.restore()

    assert "have to reset their password: lancelot, galahad" in output
    async with service(backups.restored_url, clock) as client:
        for person in (LANCELOT, {**LANCELOT, "password": NEW_PASSWORD}, GALAHAD):
            assert await refused_to_log_in(client, person)
        assert not await refused_to_log_in(client, PERCIVAL)
        listed = (await admin_call(client, "GET", "/users"))["users"]
        emails = {user["username"]: user["email"] for user in listed}
        assert emails["lancelot"] is None
        assert emails["galahad"] == GALAHAD["email"]


async def test_groups_lose_scopes_and_members_that_were_removed_since(
    backups: BackupCommands, clock: Clock
) -> None:
    async with service(backups.url, clock) as client:
        ids = [await register(client, person) for person in (LANCELOT, GALAHAD)]
        for name, scopes in (("knights", ["predict", "train"]), ("squires", ["label"])):
            await admin_call(client, "POST", "/groups", name=name, scopes=scopes)
            for user_id in ids:
                await admin_call(client, "PUT", f"/groups/{name}/members/{user_id}")
        tokens = [await log_in(client, person) for person in (LANCELOT, GALAHAD)]
        await backups.back_up()
        await admin_call(client, "PATCH", "/groups/knights", scopes=["predict", "admin:models"])
        await admin_call(client, "DELETE", f"/groups/knights/members/{ids[1]}")
        await admin_call(client, "DELETE", "/groups/squires")

    output = await backups.restore()

    assert "groups with fewer scopes or members: 2" in output
    async with service(backups.restored_url, clock) as client:
        for token in tokens:
            assert not await token_holds(client, token)
        granted = [scopes_of(await log_in(client, person)) for person in (LANCELOT, GALAHAD)]
        assert "predict" in granted[0]
        assert not (granted[0] | granted[1]) & {"train", "label", "admin:models"}
        assert "predict" not in granted[1]


@on_sqlite
async def test_signing_keys_that_were_revoked_since_are_revoked(
    backups: BackupCommands, clock: Clock
) -> None:
    async with service(backups.url, clock) as client:
        token = await log_in(client, ARTHUR)
        await backups.back_up()
    succeeded(await backups.hourpass(backups.url, "signing-keys", "revoke", "--yes", kid_of(token)))

    assert "revoked signing keys: 1" in await backups.restore()

    async with service(backups.restored_url, clock) as client:
        assert not await token_holds(client, token)
        assert f"kid:{kid_of(token)}" in await revoked(client)
        assert kid_of(await log_in(client, ARTHUR)) != kid_of(token)


async def test_ids_that_were_given_out_since_are_not_given_out_again(
    backups: BackupCommands, clock: Clock
) -> None:
    """However many there were: only so many are skipped when they are not known."""
    await backups.back_up()
    last = 10 * IDS_AFTER_BACKUP
    await execute(
        backups.url,
        f"UPDATE sqlite_sequence SET seq = {last} WHERE name = 'users'"
        if backups.is_sqlite
        else f"SELECT setval('users_id_seq', {last})",
    )
    await backups.restore()
    async with service(backups.restored_url, clock) as client:
        assert await register(client, LANCELOT) > last


async def test_what_was_used_or_sent_since_is_not_used_or_sent_again(
    backups: BackupCommands, clock: Clock
) -> None:
    async with service(backups.url, clock) as client:
        await register(client, GALAHAD)
        factor = await enroll(client, GALAHAD, clock)
        for number in (1, 2):
            await execute(
                backups.url,
                "INSERT INTO outbox (email, languages, address, user_agent, attempts, due_at,"
                f" created_at) VALUES ('{number}@camelot.example', '', '', '', 0,"
                " '2026-11-30', '2026-11-30')",
            )
        used, kept = factor.recovery_codes[:2]
        await backups.back_up()
        assert (await log_in_with(client, GALAHAD, used)).status_code == 200
        await execute(backups.url, "DELETE FROM outbox WHERE email = '1@camelot.example'")
    await backups.restore()
    assert await count(backups.restored_url, "outbox") == 1
    async with service(backups.restored_url, clock) as client:
        assert (await log_in_with(client, GALAHAD, used)).status_code != 200
        assert (await log_in_with(client, GALAHAD, kept)).status_code == 200


@on_sqlite
async def test_a_webhook_that_was_changed_since_gets_no_messages(
    backups: BackupCommands, clock: Clock
) -> None:
    async with service(backups.url, clock, secret_key=SECRET_KEY) as client:
        urls = [f"https://{name}.camelot.example/" for name in ("kept", "deleted", "disabled")]
        ids = [(await admin_call(client, "POST", "/webhooks", url=url))["id"] for url in urls]
        await backups.back_up(SECRET_KEY=SECRET_KEY)
        await admin_call(client, "DELETE", f"/webhooks/{ids[1]}")
        await admin_call(client, "PATCH", f"/webhooks/{ids[2]}", is_enabled=False)
    output = await backups.restore(SECRET_KEY=SECRET_KEY)
    assert "disabled webhooks: 2" in output
    async with service(backups.restored_url, clock, secret_key=SECRET_KEY) as client:
        listed = (await admin_call(client, "GET", "/webhooks"))["webhooks"]
        assert [webhook["url"] for webhook in listed if webhook["is_enabled"]] == urls[:1]


async def count(url: str, table: str) -> int:
    query = f"SELECT count(*) FROM {table}"
    if url.startswith("sqlite"):
        with closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as connection:
            return int(connection.execute(query).fetchone()[0])
    connection = await asyncpg.connect(url)
    try:
        return int(await connection.fetchval(query))
    finally:
        await connection.close()


@on_sqlite
async def test_the_first_administrator_is_not_created_again(
    backups: BackupCommands, clock: Clock
) -> None:
    """By settings that still have the password of the first day."""
    await execute(backups.url, "DELETE FROM setup_steps")
    await execute(backups.url, "UPDATE users SET is_admin = false")
    await backups.back_up()
    settings = {"first_admin_username": "uther", "first_admin_password": NEW_PASSWORD}
    async with service(backups.url, clock, **settings) as client:
        token = await log_in(client, {"username": "uther", "password": NEW_PASSWORD})
        proof = {"password": NEW_PASSWORD}
        await client.request("DELETE", "/me", json=proof, headers=bearer(token))
    await backups.restore()
    async with service(backups.restored_url, clock, **settings) as client:
        assert await refused_to_log_in(client, {"username": "uther", "password": NEW_PASSWORD})


async def test_end_everything_leaves_nothing_valid(backups: BackupCommands, clock: Clock) -> None:
    async with service(backups.url, clock) as client:
        await register(client, LANCELOT)
        session = await open_session(client, LANCELOT)
        api_key = (await KeyCalls(client, session["token"]).create())["id"]
        await backups.back_up()

    output = await backups.restore("--end-everything")

    assert "Revoked all signing keys" in output
    async with service(backups.restored_url, clock) as client:
        assert not await token_holds(client, session["token"])
        assert (await renew(client, session["refresh_token"])).status_code == 400
        keys = await keys_of(client, LANCELOT)
        assert (await keys.get(api_key))["status"] == "suspended"


async def test_without_a_former_database_the_operator_decides(
    backups: BackupCommands, clock: Clock, tmp_path: Path
) -> None:
    async with service(backups.url, clock) as client:
        token = await log_in(client, ARTHUR)
        await backups.back_up()
    gone = {"PREVIOUS_DATABASE_URL": f"sqlite:///{tmp_path / 'gone.db'}"}
    if backups.is_sqlite:
        backups.path.unlink()

    refused = await backups.try_restore(**gone)

    assert_refused(
        refused, "It is not known what was revoked since the backup", "--keep-everything"
    )
    assert not (tmp_path / "gone.db").exists()
    if backups.is_sqlite:
        assert names_in(tmp_path) == {backups.file.name}
    else:
        await empty(backups.restored_url)
    await backups.restore("--keep-everything", **gone)
    async with service(backups.restored_url, clock) as client:
        assert await token_holds(client, token)
        assert await register(client, LANCELOT) > IDS_AFTER_BACKUP


async def empty(url: str) -> None:
    connection = await asyncpg.connect(url)
    try:
        await connection.execute("DROP SCHEMA public CASCADE; CREATE SCHEMA public")
    finally:
        await connection.close()


async def test_another_database_or_an_earlier_state_is_not_compared(
    backups: BackupCommands, clock: Clock, tmp_path: Path
) -> None:
    """Every user that it lacks would be disabled."""
    earlier = tmp_path / "earlier.db"
    if backups.is_sqlite:
        shutil.copy(backups.path, earlier)
    async with service(backups.url, clock) as client:
        await register(client, LANCELOT)
        await backups.back_up()
    urls = [f"sqlite:///{earlier}"] if backups.is_sqlite else []
    async with service(f"sqlite:///{tmp_path / 'other.db'}", clock) as client:
        for person in (MORDRED, GALAHAD, PERCIVAL):
            await register(client, person)
        urls.append(f"sqlite:///{tmp_path / 'other.db'}")
    for url in urls:
        refused = await backups.try_restore(PREVIOUS_DATABASE_URL=url)
        assert_refused(refused, "is not a later state of the one that was backed up")
        if not backups.is_sqlite:
            await empty(backups.restored_url)


def assert_refused(result: Result, *texts: str) -> None:
    assert result.exit_code == 1, result.output
    assert "Traceback" not in result.output
    for text in texts:
        assert text in result.output


def content_of(backups: BackupCommands) -> bytes:
    """Of the destination."""
    return backups.path.read_bytes() if backups.is_sqlite else b""


async def tables_in(url: str) -> int:
    connection = await asyncpg.connect(url)
    try:
        query = "SELECT count(*) FROM pg_tables WHERE schemaname = 'public'"
        number: int = await connection.fetchval(query)
    finally:
        await connection.close()
    return number


Damage = Callable[[bytes], bytes]


DAMAGES: dict[str, tuple[Damage, str]] = {
    "cut": (lambda it: it[: len(it) // 2], "changed or cut off"),
    "appended": (lambda it: it + it[-100:], "changed or cut off"),
    "changed": (lambda it: it[:10_000] + b"Camelot" + it[10_007:], "changed"),
    "another file": (lambda it: b"x" + it, "This is not a backup"),
}


async def test_a_damaged_backup_changes_nothing(
    backups: BackupCommands, subtests: pytest.Subtests
) -> None:
    await backups.back_up("--encrypt", stdin="the lady of the lake\n")
    whole, before = backups.file.read_bytes(), content_of(backups)
    for name, (damage, message) in DAMAGES.items():
        backups.file.write_bytes(damage(whole))
        refused = await backups.try_restore("--end-everything", stdin="the lady of the lake\n")
        with subtests.test(name):
            assert_refused(refused, message)
            await assert_unchanged(backups, before)


async def assert_unchanged(backups: BackupCommands, before: bytes) -> None:
    if backups.is_sqlite:
        assert content_of(backups) == before
        assert names_in(backups.path.parent) <= {backups.path.name, backups.file.name}
    else:
        assert await tables_in(backups.restored_url) == 0


async def test_an_encrypted_backup_needs_its_passphrase(
    backups: BackupCommands, clock: Clock, tmp_path: Path
) -> None:
    async with service(backups.url, clock) as client:
        token = await log_in(client, ARTHUR)
    passphrase = tmp_path / "passphrase"
    passphrase.write_text("the lady of the lake\n")
    await backups.back_up("--passphrase-file", str(passphrase))
    passphrase.unlink()
    assert b"arthur" not in backups.file.read_bytes()
    before = content_of(backups)

    refused = await backups.try_restore(stdin="the lady of the sea\n")

    assert_refused(refused, "The passphrase is wrong")
    await assert_unchanged(backups, before)
    await backups.restore(stdin="the lady of the lake\n")
    async with service(backups.restored_url, clock) as client:
        assert await token_holds(client, token)


async def test_a_backup_needs_its_secret_key(backups: BackupCommands, clock: Clock) -> None:
    async with service(backups.url, clock, secret_key=SECRET_KEY) as client:
        token = await log_in(client, ARTHUR)
    assert "It needs SECRET_KEY" in await backups.back_up(SECRET_KEY=SECRET_KEY)
    before = content_of(backups)
    for variables, message in (
        ({}, "Set SECRET_KEY"),
        ({"SECRET_KEY": OTHER_SECRET_KEY}, "under another SECRET_KEY"),
    ):
        assert_refused(await backups.try_restore(**variables), message)
        await assert_unchanged(backups, before)
    assert "decrypts its signing keys" in await backups.restore("--check", SECRET_KEY=SECRET_KEY)
    await assert_unchanged(backups, before)
    await backups.restore(SECRET_KEY=SECRET_KEY)
    async with service(backups.restored_url, clock, secret_key=SECRET_KEY) as client:
        assert await token_holds(client, token)


async def test_a_backup_of_a_newer_version_is_refused(backups: BackupCommands) -> None:
    await execute(backups.url, "UPDATE hourpass_version SET version_num = '9999'")
    output = await backups.back_up()
    assert "has not been migrated" in output
    before = content_of(backups)
    refused = await backups.try_restore("--end-everything")
    assert_refused(refused, "ahead of this version (at 9999")
    await assert_unchanged(backups, before)


def test_a_backup_of_an_older_version_is_migrated(tmp_path: Path) -> None:
    from alembic import command

    url = f"sqlite:///{tmp_path / 'hourpass.db'}"
    command.upgrade(migrations.alembic_config(make_settings(url)), "0008")
    asyncio.run(
        execute(
            url,
            "INSERT INTO users (username, username_folded, password_hash, is_enabled, is_admin,"
            " token_epoch, created_at) VALUES ('uther', 'uther', '!', 1, 0, 1, '2026-11-30')",
        )
    )
    backups = BackupCommands(url, url, tmp_path)
    output = asyncio.run(backups.back_up())
    assert "Backed up 1 user " in output
    assert "The audit log has no entry of it" in output
    assert "Its schema is 0008" in asyncio.run(backups.restore("--check"))
    # The former database is of another version as well, so it cannot be compared.
    refused = asyncio.run(backups.try_restore())
    assert_refused(refused, "The database is behind this version", "--keep-everything")
    asyncio.run(backups.restore("--keep-everything"))
    with closing(sqlite3.connect(backups.path)) as connection:
        found = connection.execute("SELECT version_num FROM hourpass_version").fetchone()
    assert found == (migrations.HEAD,)
    output = asyncio.run(backups.back_up("--overwrite"))
    assert "Backed up 1 user " in output
    assert "no entry" not in output


@on_sqlite
async def test_the_operator_cannot_decide_both(backups: BackupCommands) -> None:
    await backups.back_up()
    result = await backups.try_restore("--end-everything", "--keep-everything")
    assert result.exit_code == 2


async def execute(url: str, statement: str) -> None:
    if url.startswith("sqlite"):
        with closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as connection:
            connection.execute(statement)
            connection.commit()
        return
    connection = await asyncpg.connect(url)
    try:
        await connection.execute(statement)
    finally:
        await connection.close()


@on_sqlite
async def test_a_database_with_users_is_replaced_only_on_request_and_kept(
    backups: BackupCommands, clock: Clock
) -> None:
    await backups.back_up()
    async with service(backups.url, clock) as client:
        await register(client, LANCELOT)
    before = content_of(backups)
    refused = await backups.run("restore", backups.url)
    assert_refused(refused, "exists and has users. Use --replace")
    assert content_of(backups) == before

    await backups.restore()

    [former] = backups.path.parent.glob("*.before-restore-*")
    for path, users in ((former, 2), (backups.path, 1)):
        with closing(sqlite3.connect(path)) as connection:
            assert connection.execute("SELECT count(*) FROM users").fetchone() == (users,)
            assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert path.stat().st_mode & 0o777 == 0o600
    names = names_in(backups.path.parent)
    assert {name for name in names if name.endswith(("-wal", "-shm", ".restoring"))} == set()


@on_sqlite
async def test_the_database_of_another_application_is_not_replaced(
    backups: BackupCommands,
) -> None:
    await backups.back_up()
    backups.path.unlink()
    await execute(backups.url, "CREATE TABLE users (crown TEXT)")
    before = content_of(backups)
    assert_refused(await backups.try_restore("--end-everything"), "belongs to another application")
    assert content_of(backups) == before


@on_sqlite
async def test_a_damaged_database_is_replaced_and_kept_with_all_its_files(
    backups: BackupCommands, clock: Clock
) -> None:
    await backups.back_up()
    wal = backups.path.with_name(backups.path.name + "-wal")
    backups.path.write_bytes(b"no database" * 1000)
    wal.write_bytes(b"no log of changes")
    assert_refused(await backups.run("restore", backups.url), "cannot be read. Use --replace")
    assert_refused(await backups.try_restore(), "It is not known what was revoked")
    assert backups.path.read_bytes() == b"no database" * 1000

    await backups.restore("--keep-everything")

    kept = sorted(path.name for path in backups.path.parent.glob("*.before-restore-*"))
    assert [name.partition("Z")[2] for name in kept] == ["", "-wal-kept"]
    async with service(backups.url, clock) as client:
        await log_in(client, ARTHUR)


async def test_a_database_in_use_is_refused(
    backups: BackupCommands, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(make_safe, "_ATTEMPTS", 2)
    monkeypatch.setattr(sqlite_files, "_CLOSE_SECONDS", 0.1)
    await backups.back_up()
    if backups.is_sqlite:
        async with service(backups.url, clock) as client:
            await log_in(client, ARTHUR)
            assert_refused(await backups.try_restore(), "is in use. Stop the service")
        await backups.restore()
        return
    async with service(backups.url, clock):
        refused = await backups.try_restore()
        assert_refused(refused, "The former database is in use by", "after-restore")


@on_postgresql
async def test_a_dump_of_the_whole_database_is_restored_too(
    backups: BackupCommands, clock: Clock
) -> None:
    """It has the rights and owners of the other server, and no entry of ours."""
    async with service(backups.url, clock) as client:
        token = await log_in(client, ARTHUR)
    command = [str(programs_of(18) / "pg_dump"), "--format=custom", backups.url]
    with backups.file.open("wb") as file:
        await asyncio.to_thread(subprocess.run, command, stdout=file, check=True)
    await backups.restore()
    async with service(backups.restored_url, clock) as client:
        assert await token_holds(client, token)


@on_postgresql
async def test_postgresql_needs_an_empty_database(backups: BackupCommands) -> None:
    await backups.back_up()
    refused = await backups.run("restore", backups.url, "--end-everything")
    assert_refused(refused, "The database has tables of Hourpass. Create an empty one")


@on_sqlite
async def test_a_copy_of_the_running_file_is_not_a_backup(backups: BackupCommands) -> None:
    """What it lacks is in the file beside it."""
    shutil.copy(backups.path, backups.file)
    beside = backups.file.with_name(backups.file.name + "-wal")
    beside.write_bytes(b"changes")
    assert_refused(await backups.try_restore(), f"{beside} has changes that {backups.file} lacks")


async def test_check_describes_a_backup_and_changes_nothing(
    backups: BackupCommands, clock: Clock
) -> None:
    async with service(backups.url, clock) as client:
        await register(client, LANCELOT)
    await backups.back_up()
    before = content_of(backups)
    output = await backups.restore("--check")
    assert "The backup is whole" in output
    if backups.is_sqlite:
        assert "Users: 2." in output
    await assert_unchanged(backups, before)
