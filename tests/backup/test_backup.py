"""A backup is complete or does not exist, whatever happens to the service or to the command."""

import asyncio
import os
import random
import sqlite3
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from app.operations.backup import encryption
from app.operations.backup.encryption import encrypt
from app.operations.backup.errors import BackupError
from app.operations.backup.new_file import NewFile
from app.settings import ROOT
from tests.support.apps import started_client
from tests.support.backups import (
    BackupCommands,
    assert_refused,
    backups,
    names_in,
    programs_of,
)
from tests.support.forked_process import ForkedProcess
from tests.support.markers import on_postgresql, on_sqlite
from tests.support.processes import environment
from tests.support.settings import CHEAP_HASHING, Clock, make_settings
from tests.support.users import ARTHUR, LANCELOT, bearer, log_in, register

__all__ = ["backups"]

KILLS = 4
ROWS = 10_000  # of the database to kill backups of: some 13 MB
WRITES_PER_SECOND = 20
LIMIT_SECONDS = 120

# A process of its own that adds users, each in a transaction, and prints each name once that is
# committed.
_WRITER = """
import itertools, sqlite3, sys, time
connection = sqlite3.connect(sys.argv[1], timeout=30, isolation_level=None)
connection.execute("PRAGMA synchronous=FULL")
for number in itertools.count():
    name = f"knight{number}"
    connection.execute(
        "INSERT INTO users (username, username_folded, kind, password_hash, is_enabled, is_admin,"
        " scopes, token_epoch, created_at) VALUES (?, ?, 'person', '!', 1, 0, '', 1, '2026-11-30')",
        (name, name),
    )
    print(name, flush=True)
    time.sleep(1 / float(sys.argv[2]))
"""


class Writer:
    def __init__(self, process: "subprocess.Popen[bytes]", printed: Path) -> None:
        self._process = process
        self._printed = printed

    def committed(self) -> list[str]:
        """The users so far."""
        assert self._process.poll() is None
        return self._printed.read_text().splitlines()

    def wait_for_more(self) -> list[str]:
        before = len(self.committed())
        deadline = time.monotonic() + LIMIT_SECONDS
        while len(self.committed()) == before:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        return self.committed()[:-1]  # the last line may not be complete


@contextmanager
def writing(database: Path, printed: Path) -> Iterator[Writer]:
    command = [sys.executable, "-c", _WRITER, str(database), str(WRITES_PER_SECOND)]
    with printed.open("wb") as output, subprocess.Popen(command, stdout=output) as process:
        try:
            yield Writer(process, printed)
        finally:
            process.kill()


def users_in(path: Path) -> set[str]:
    """Of a copy that needs no other file."""
    assert not list(path.parent.glob(f"{path.name}-*"))
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        return {name for (name,) in connection.execute("SELECT username FROM users")}


def fill(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.executemany(
            "INSERT INTO audit_log (at, action, succeeded, address, user_agent, details)"
            " VALUES ('2026-11-30', 'login', 1, '', '', ?)",
            [(f'{{"number": "{number}", "text": "{"x" * 900}"}}',) for number in range(ROWS)],
        )


@on_sqlite
def test_a_backup_that_is_killed_at_any_moment_is_whole_or_not_there(
    database_url: str, tmp_path: Path
) -> None:
    """Beside 20 writes a second of another process."""
    database = Path(database_url.removeprefix("sqlite:///"))
    fill(database)
    chance = random.Random(30)
    directory = tmp_path / "backups"
    directory.mkdir()
    (directory / "passphrase").write_text("the lady of the lake")
    variables = environment(DATABASE_URL=database_url, **CHEAP_HASHING)
    killed = whole = 0
    with writing(database, directory / "printed") as writer:
        for number in range(KILLS):
            file = directory / f"{number}.db"
            encrypted = ("--passphrase-file", str(directory / "passphrase")) if number % 2 else ()
            partial = file.with_name(f"{file.name}.partial")
            acknowledged = writer.wait_for_more()
            process = ForkedProcess(
                "backup", str(file), *encrypted, directory=str(ROOT), variables=variables
            )
            while process.poll() is None and not partial.exists():
                time.sleep(0.001)
            time.sleep(chance.random() * 0.2)
            process.kill()
            process.wait(LIMIT_SECONDS)
            if not file.exists():
                killed += 1
            elif not encrypted:
                whole += 1
                assert users_in(file) >= {"arthur", *acknowledged}
            # Nothing readable is left beside the database.
            beside = {path.name for path in database.parent.iterdir() if path.is_file()}
            assert beside <= {database.name, f"{database.name}-wal", f"{database.name}-shm"}
        # Where one was killed, the next one succeeds.
        acknowledged = writer.wait_for_more()
        file = directory / "0.db"
        process = ForkedProcess(
            "backup", str(file), "--overwrite", directory=str(ROOT), variables=variables
        )
        assert process.wait(LIMIT_SECONDS) == 0
        assert users_in(file) >= {"arthur", *acknowledged}
        assert not file.with_name(f"{file.name}.partial").exists()
        acknowledged = writer.committed()
    assert killed
    assert whole <= KILLS
    with closing(sqlite3.connect(database)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        names = {name for (name,) in connection.execute("SELECT username FROM users")}
    assert names >= {"arthur", *acknowledged}


@on_postgresql
async def test_a_dump_beside_writes_has_everything_from_before_it(backups: BackupCommands) -> None:
    names: list[str] = []

    async def write() -> None:
        connection = await asyncpg.connect(backups.url)
        try:
            while True:
                name = f"knight{len(names)}"
                await connection.execute(
                    "INSERT INTO users (username, username_folded, password_hash, is_enabled,"
                    " is_admin, token_epoch, created_at)"
                    " VALUES ($1, $1, '!', true, false, 1, now())",
                    name,
                )
                names.append(name)
                await asyncio.sleep(1 / WRITES_PER_SECOND)
        finally:
            await connection.close()

    task = asyncio.create_task(write())
    while len(names) < 3:
        await asyncio.sleep(0.01)
    acknowledged = list(names)
    await backups.back_up("--encrypt", stdin="the lady of the lake\n")
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert len(names) > len(acknowledged)
    await backups.restore(stdin="the lady of the lake\n")
    connection = await asyncpg.connect(backups.restored_url)
    try:
        rows = await connection.fetch("SELECT username FROM users")
    finally:
        await connection.close()
    restored = {row["username"] for row in rows}
    assert restored >= {"arthur", *acknowledged}


@on_sqlite
async def test_a_backup_is_an_ordinary_database_that_only_its_owner_can_read(
    backups: BackupCommands, clock: Clock
) -> None:
    async with started_client(make_settings(backups.url), clock) as client:
        await register(client, LANCELOT)
        output = await backups.back_up()
        headers = bearer(await log_in(client, ARTHUR))
        query = {"action": "service.backup"}
        [entry] = (await client.get("/audit", params=query, headers=headers)).json()["entries"]
    assert "Backed up 2 users" in output
    assert "secrets are not encrypted" in output
    assert users_in(backups.file) == {"arthur", "lancelot"}
    assert stat.S_IMODE(backups.file.stat().st_mode) == 0o600
    with closing(sqlite3.connect(backups.file)) as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("delete",)
        last = connection.execute("SELECT action FROM audit_log ORDER BY id DESC").fetchone()
    assert last == ("service.backup",)
    assert entry["details"]["users"] == "2"
    assert entry["succeeded"]


@on_sqlite
async def test_a_backup_goes_to_standard_output(database_url: str, tmp_path: Path) -> None:
    """And nothing else does, in a process of its own."""
    done = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-m", "hourpass", "backup", "-"],
        cwd=ROOT,
        env=environment(DATABASE_URL=database_url, **CHEAP_HASHING),
        capture_output=True,
        timeout=LIMIT_SECONDS,
        check=True,
    )
    file = tmp_path / "piped.db"
    file.write_bytes(done.stdout)
    assert users_in(file) == {"arthur"}
    assert names_in(tmp_path) <= {"piped.db", "hourpass.db"}


@on_postgresql
async def test_a_dump_goes_to_standard_output(backups: BackupCommands) -> None:
    done = await backups.hourpass(backups.url, "backup", "-")
    assert done.exit_code == 0, done.output
    assert done.stdout_bytes.startswith(b"PGDMP")


async def test_a_backup_replaces_a_file_only_on_request(backups: BackupCommands) -> None:
    backups.file.write_text("a backup of yesterday")
    assert_refused(await backups.run("backup", backups.url), "exists. Choose another name")
    assert backups.file.read_text() == "a backup of yesterday"
    await backups.back_up("--overwrite")
    assert backups.file.stat().st_size > 1000


@on_sqlite
async def test_a_backup_never_replaces_the_database(backups: BackupCommands) -> None:
    before = backups.path.read_bytes()
    for end in ("", "-wal", "-shm", "-journal"):
        link = backups.file.with_name(f"link{end}")
        link.symlink_to(f"{backups.path}{end}")
        for file in (Path(f"{backups.path}{end}"), link):
            backups.file = file
            refused = await backups.run("backup", backups.url, "--overwrite")
            assert_refused(refused, "is the database itself")
    assert backups.path.read_bytes() == before


@on_sqlite
async def test_the_copy_that_is_encrypted_has_no_name(
    backups: BackupCommands, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that nothing readable is left if the command is killed."""
    found: list[set[str]] = []

    def look(*arguments: Any) -> None:
        found.append(names_in(backups.path.parent))
        encrypt(*arguments)

    monkeypatch.setattr(encryption, "encrypt", look)
    await backups.back_up("--encrypt", stdin="the lady of the lake\n")
    [names] = found
    assert {name for name in names if not name.endswith(("-wal", "-shm"))} == {
        backups.path.name,
        f"{backups.file.name}.partial",
    }
    assert backups.file.stat().st_size > backups.path.stat().st_size / 2


@on_sqlite
async def test_a_backup_that_fails_leaves_nothing(backups: BackupCommands) -> None:
    file = backups.file
    backups.file = file.parent / "missing" / "hourpass.backup"
    assert_refused(await backups.run("backup", backups.url), "No such file or directory")
    backups.file = file.parent
    assert_refused(await backups.run("backup", backups.url), "is a directory")
    backups.file = file
    refused = await backups.run("backup", backups.url, "--encrypt", stdin="short\n")
    assert_refused(refused, "between 12 and 1024 characters")
    missing = f"sqlite:///{file.parent / 'missing.db'}"
    assert_refused(await backups.run("backup", missing), "There is no database")
    assert [path.name for path in file.parent.iterdir()] == [backups.path.name]


@on_sqlite
async def test_a_damaged_database_is_not_backed_up(backups: BackupCommands) -> None:
    """The last good backup must not be replaced by it."""
    with closing(sqlite3.connect(backups.path)) as connection:
        (page,) = connection.execute(
            "SELECT rootpage FROM sqlite_master WHERE name = 'ix_audit_log_at'"
        ).fetchone()
        (size,) = connection.execute("PRAGMA page_size").fetchone()
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    with backups.path.open("r+b") as file:
        file.seek((page - 1) * size)
        file.write(os.urandom(size))
    backups.file.write_text("the last good one")
    refused = await backups.run("backup", backups.url, "--overwrite")
    assert refused.exit_code == 1
    assert "damaged" in refused.output
    assert backups.file.read_text() == "the last good one"


@on_sqlite
async def test_a_read_only_database_is_backed_up_without_an_entry(backups: BackupCommands) -> None:
    with closing(sqlite3.connect(backups.path)) as connection:
        connection.execute(
            "CREATE TRIGGER full BEFORE INSERT ON audit_log"
            " BEGIN SELECT RAISE(ABORT, 'the disk is full'); END"
        )
    output = await backups.back_up()
    assert "The audit log has no entry of it" in output
    assert users_in(backups.file) == {"arthur"}


def test_two_backups_to_the_same_file_do_not_mix(tmp_path: Path) -> None:
    path = tmp_path / "hourpass.backup"
    with NewFile(path) as first:
        first.file.write(b"the first")
        with pytest.raises(BackupError, match="Another process is writing"), NewFile(path):
            pass
        first.keep()
    assert path.read_bytes() == b"the first"
    with NewFile(path) as third:
        third.file.write(b"the third")
        with pytest.raises(BackupError, match="exists"):
            third.keep()
    assert path.read_bytes() == b"the first"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("prepare", ["symlink_to", "hardlink_to"])
def test_a_link_that_another_user_put_there_is_not_written_through(
    tmp_path: Path, prepare: str
) -> None:
    target = tmp_path / "target"
    target.write_text("Camelot")
    getattr(tmp_path / "hourpass.backup.partial", prepare)(target)
    with pytest.raises(BackupError), NewFile(tmp_path / "hourpass.backup"):
        pass
    assert target.read_text() == "Camelot"


def test_the_file_of_a_killed_backup_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / "hourpass.backup.partial").write_text("x" * 1000)
    with NewFile(tmp_path / "hourpass.backup") as new:
        new.file.write(b"whole")
        new.keep()
    assert (tmp_path / "hourpass.backup").read_bytes() == b"whole"


@on_postgresql
async def test_without_pg_dump_the_command_is_printed(
    backups: BackupCommands, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    url = backups.url.replace("postgres:@", "postgres:sesame-open@")
    assert "sesame" in url
    refused = await backups.run("backup", url)
    assert_refused(refused, "pg_dump --format=custom")
    assert "--schema=public" in refused.output
    assert "sesame" not in refused.output
    assert not backups.file.exists()


@on_postgresql
async def test_a_pg_dump_that_is_older_than_the_server_is_refused(
    backups: BackupCommands, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(programs_of(16)))
    refused = await backups.run("backup", backups.url)
    assert_refused(refused, "has version 16, and the server 18")
    assert not backups.file.exists()


@on_postgresql
async def test_programs_get_the_password_in_their_environment_alone(
    backups: BackupCommands, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Arguments are visible to every user of the machine."""
    programs = tmp_path / "programs"
    programs.mkdir()
    fake = programs / "pg_dump"
    fake.write_text(
        "#!/bin/sh\n"
        '[ "$1" = --version ] && { echo "pg_dump (PostgreSQL) 18.1"; exit; }\n'
        f'echo "$@" > {tmp_path}/arguments; env > {tmp_path}/environment\n'
        "echo error: no >&2; exit 3\n"
    )
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", str(programs), prepend=":")
    url = backups.url.replace("postgres:@", "postgres:sesame-open@")
    refused = await backups.run("backup", url)
    assert_refused(refused, "pg_dump failed with status 3")
    assert "sesame" not in refused.output
    assert "sesame" not in (tmp_path / "arguments").read_text()
    assert "PGPASSWORD=sesame-open" in (tmp_path / "environment").read_text().splitlines()
    assert not backups.file.exists()


@on_postgresql
async def test_a_schema_of_another_name_is_restored_to_one_of_that_name(
    backups: BackupCommands, clock: Clock
) -> None:
    option = "options=-csearch_path%3Dhourpass"
    for url in (backups.url, backups.restored_url):
        connection = await asyncpg.connect(url)
        await connection.execute("CREATE SCHEMA hourpass")
        await connection.close()
    own, restored = (f"{url}&{option}" for url in (backups.url, backups.restored_url))
    async with started_client(make_settings(own), clock) as client:
        await register(client, LANCELOT)
    assert (await backups.run("backup", own)).exit_code == 0
    refused = await backups.run("restore", backups.restored_url, "--keep-everything")
    assert_refused(refused, "The backup has the schema hourpass")
    result = await backups.run("restore", restored, "--keep-everything")
    assert result.exit_code == 0, result.output
    async with started_client(make_settings(restored), clock) as client:
        await log_in(client, LANCELOT)
