"""`hourpass restore` restores a complete backup, or changes nothing."""

import asyncio
import shutil
import sqlite3
import subprocess
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import asyncpg
import pytest

from app.database import migrations
from app.database.timelines import IDS_AFTER_BACKUP
from app.operations.backup import make_safe, sqlite_files
from tests.support.backups import (
    BackupCommands,
    assert_refused,
    backups,
    names_in,
    programs_of,
    service,
)
from tests.support.databases import execute
from tests.support.key_calls import KeyCalls, keys_of
from tests.support.markers import on_postgresql, on_sqlite
from tests.support.settings import Clock, make_settings
from tests.support.users import (
    ARTHUR,
    GALAHAD,
    LANCELOT,
    log_in,
    open_session,
    refresh,
    register,
    token_is_valid,
)

__all__ = ["backups"]

MORDRED = {**LANCELOT, "username": "mordred", "email": "mordred@camelot.example"}
PERCIVAL = {**LANCELOT, "username": "percival", "email": "percival@camelot.example"}
SECRET_KEY = "q7Zr2pX9mK4vB8nL1cW6tY3hD5gF0sJa"
OTHER_SECRET_KEY = "M3bV7xQ1zL9kP5wR8nT2cY6hG4fD0sJu"


async def test_end_everything_leaves_nothing_valid(backups: BackupCommands, clock: Clock) -> None:
    async with service(backups.url, clock) as client:
        await register(client, LANCELOT)
        session = await open_session(client, LANCELOT)
        api_key = (await KeyCalls(client, session["token"]).create())["id"]
        await backups.back_up()

    output = await backups.restore("--end-everything")

    assert "Revoked all signing keys" in output
    async with service(backups.restored_url, clock) as client:
        assert not await token_is_valid(client, session["token"])
        assert (await refresh(client, session["refresh_token"])).status_code == 400
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
        assert await token_is_valid(client, token)
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


@on_sqlite
async def test_an_encrypted_backup_needs_its_passphrase(
    backups: BackupCommands, clock: Clock, tmp_path: Path
) -> None:
    """An encrypted dump of PostgreSQL is restored in test_backup.py and damaged above."""
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
        assert await token_is_valid(client, token)


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
        assert await token_is_valid(client, token)


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
        assert await token_is_valid(client, token)


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
