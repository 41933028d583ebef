"""What was revoked since a backup stays revoked after `hourpass restore`. The rest stays valid."""

import sqlite3
from contextlib import closing
from typing import Any

import asyncpg
import pytest
from httpx import AsyncClient

from app.database.timelines import IDS_AFTER_BACKUP
from app.operations.backup import comparison
from tests.support.authenticator import enroll, log_in_with
from tests.support.backups import BackupCommands, backups, service, succeeded
from tests.support.databases import execute
from tests.support.key_calls import KeyCalls, keys_of
from tests.support.markers import on_sqlite
from tests.support.settings import Clock
from tests.support.users import (
    ARTHUR,
    GALAHAD,
    LANCELOT,
    Person,
    assert_problem,
    bearer,
    claims_of,
    kid_of,
    log_in,
    open_session,
    refresh,
    register,
    revoked,
    token_is_valid,
    user_revocation,
)

__all__ = ["backups"]

MORDRED = {**LANCELOT, "username": "mordred", "email": "mordred@camelot.example"}
PERCIVAL = {**LANCELOT, "username": "percival", "email": "percival@camelot.example"}
BORS = {**LANCELOT, "username": "bors", "email": "bors@camelot.example"}
NEW_PASSWORD = "achieved the grail"
SECRET_KEY = "q7Zr2pX9mK4vB8nL1cW6tY3hD5gF0sJa"


async def admin_call(client: AsyncClient, method: str, path: str, **body: Any) -> Any:
    headers = bearer(await log_in(client, ARTHUR))
    response = await client.request(method, path, json=body, headers=headers)
    assert response.is_success, response.text
    return response.json()


def scopes_of(token: str) -> set[str]:
    return set(claims_of(token).get("scope", "").split())


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
            assert not await token_is_valid(client, token)
        assert await token_is_valid(client, valid)
        listed = set(await revoked(client))
        assert listed >= {*published, *map(user_revocation, later)}  # for guards
        for known in (first_cursor, cursor):
            response = await client.get("/revocations", params={"after": known})
            assert_problem(response, 410, "cursor_unknown")
        for person in (GALAHAD, MORDRED, BORS):
            assert await refused_to_log_in(client, person)
        fresh = await log_in(client, PERCIVAL)
        assert {"predict", "train", "admin"} & scopes_of(fresh) == {"predict"}
        assert claims_of(fresh)["epoch"] not in {claims_of(t)["epoch"] for t in (lost[2], later[1])}
        assert await token_is_valid(client, fresh)
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
        renewed = (await refresh(client, used["refresh_token"])).json()
        path = f"/me/sessions/{claims_of(ended['token'])['sid']}"
        assert (await client.delete(path, headers=bearer(ended["token"]))).is_success
        assert await register(client, {**BORS, "invitation": used_code})

    output = await backups.restore()

    assert "suspended API keys: 2" in output
    assert "api_key.revoke" in output
    async with service(backups.restored_url, clock, registration="invite") as client:
        for session in (used, renewed, ended):
            assert (await refresh(client, session["refresh_token"])).status_code == 400
        assert (await refresh(client, kept["refresh_token"])).status_code == 200
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


@on_sqlite
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


@on_sqlite
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
            assert not await token_is_valid(client, token)
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
        assert not await token_is_valid(client, token)
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
