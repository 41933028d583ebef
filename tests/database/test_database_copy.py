"""`hourpass copy` takes everything to another database, or nothing."""

import asyncio
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from fastapi import FastAPI
from sqlalchemy import (
    Boolean,
    Column,
    Date,
    Integer,
    LargeBinary,
    String,
    Table,
    insert,
    make_url,
    select,
)

from app.database.base import UtcDateTime
from app.database.engine import Database, begin_write
from app.database.timelines import IDS_AFTER_BACKUP, skip_ids
from app.operations.database_copy import rows as rows_module
from app.operations.database_copy import source as source_module
from app.operations.database_copy.errors import CopyError
from app.operations.database_copy.rows import Checksum, read_pages
from app.operations.database_copy.service import CopiedTable, copy_database
from app.operations.database_copy.tables import LEFT_OUT, copied_tables
from app.settings import ROOT
from app.tables import metadata
from app.users.models import User
from tests.support.apps import started_client
from tests.support.database_templates import Postgres
from tests.support.databases import execute, target_url
from tests.support.markers import on_postgresql, on_sqlite
from tests.support.pgbouncer import pgbouncer
from tests.support.processes import environment
from tests.support.settings import Clock, make_settings
from tests.support.users import GALAHAD, register

__all__ = ["target_url"]

ROWS = 3  # of each table
BIG = 2**62
IN_PAGES = 2


@pytest.fixture
def new_target_url(
    database_url: str, request: pytest.FixtureRequest, tmp_path: Path
) -> Iterator[str]:
    """A database of the other kind that was never migrated."""
    if database_url.startswith("postgresql"):
        yield f"sqlite:///{tmp_path / 'target.db'}"
        return
    postgres: Postgres = request.getfixturevalue("postgres")
    with postgres.database() as url:
        yield url


async def copy(source: str, target: str, **options: Any) -> list[CopiedTable]:
    return await copy_database(make_settings(source), make_settings(target), **options)


async def read_all(url: str) -> dict[str, set[tuple[Any, ...]]]:
    database = Database(make_settings(url))
    try:
        async with database.session() as session:
            return {
                table.name: {tuple(row) for row in (await session.execute(select(table))).all()}
                for table in copied_tables()
            }
    finally:
        await database.close()


async def is_empty(url: str) -> bool:
    """Except for the row of the feed, which a migration writes."""
    found = await read_all(url)
    return {name for name, rows in found.items() if rows} == {"revocation_feed"}


def value_of(column: Column[Any], number: int) -> Any:  # noqa: PLR0911 - one for each type
    """Values at which databases differ: long texts of all scripts, small fractions, big numbers."""
    type_ = column.type
    if column.nullable and number == ROWS - 1:
        return None
    if isinstance(type_, UtcDateTime):
        return datetime(9999, 12, 31, 23, 59, 59, 999_999 - number, UTC)
    if isinstance(type_, Date):
        return date(1, 1, 1) + timedelta(days=number)
    if isinstance(type_, Boolean):
        return number % 2 == 0
    if isinstance(type_, Integer):
        is_big = not column.primary_key and type_.python_type is int and "Big" in repr(type_)
        return BIG + number if is_big else 1_000 + number
    if isinstance(type_, LargeBinary):
        return bytes([0, 255, number]) * 10
    assert isinstance(type_, String), f"a value for {column} is missing here"
    text = f"{number}ß𝄞ﬁ\\'\";,\t\n\x7f" + "ö" * 100
    return text[: type_.length or 100]


def new_rows(table: Table, made: dict[str, list[dict[str, Any]]]) -> list[dict[str, Any]]:
    rows = []
    for number in range(ROWS):
        row = {}
        for column in table.columns:
            parent = next((key.column for key in column.foreign_keys), None)
            if parent is None:
                row[column.name] = value_of(column, number)
            else:
                row[column.name] = made[parent.table.name][number][parent.name]
        rows.append(row)
    return rows


async def fill(url: str) -> None:
    """Rows in each table that is copied, also in tables that are added later."""
    made: dict[str, list[dict[str, Any]]] = {}
    database = Database(make_settings(url))
    async with database.session() as session:
        await begin_write(session)
        for table in copied_tables():
            if table.name != "revocation_feed":  # has one row
                made[table.name] = new_rows(table, made)
                await session.execute(insert(table), made[table.name])
        await session.commit()
    await database.close()


def test_every_table_is_copied_or_left_out_with_a_reason() -> None:
    copied = {table.name for table in copied_tables()}
    assert copied | set(LEFT_OUT) == set(metadata.tables)
    assert copied & set(LEFT_OUT) == set()
    assert all(LEFT_OUT.values())


def test_rows_of_every_table_can_be_compared() -> None:
    """Their order needs a primary key, and their values must be the same for all databases. Add a
    type here after you have made sure of that."""
    known = {"BigInteger", "Boolean", "Date", "Integer", "LargeBinary", "String", "Text"}
    for table in copied_tables():
        assert len(table.primary_key.columns) >= 1, table.name
        types = {type(column.type).__name__ for column in table.columns}
        assert types <= {*known, "UtcDateTime"}, table.name


async def test_every_value_arrives_there_and_back(
    database_url: str, new_target_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rows_module, "PAGE_ROWS", IN_PAGES)
    await fill(database_url)
    steps: list[tuple[int, int]] = []
    copied = await copy(database_url, new_target_url, progress=lambda *step: steps.append(step))
    source, target = await read_all(database_url), await read_all(new_target_url)
    assert source == target
    assert {name: len(rows) for name, rows in source.items()} == {
        table.name: table.rows for table in copied
    }
    assert all(table.rows >= ROWS or table.name == "revocation_feed" for table in copied)
    total = 2 * sum(table.rows for table in copied)
    assert steps[-1] == (total, total)
    assert steps == sorted(steps)
    if database_url.startswith("sqlite"):
        again = f"sqlite:///{tmp_path / 'again.db'}"
        assert await copy(new_target_url, again) == copied
        assert await read_all(again) == source


async def test_ids_go_on_where_the_source_stopped(
    database_url: str, target_url: str, clock: Clock
) -> None:
    """No id that was deleted or skipped is assigned again. The target does not skip ids either, as
    a new primary does after a failover."""
    database = Database(make_settings(database_url))
    async with database.session() as session:
        await begin_write(session)
        await skip_ids(session)
        await session.commit()
    await database.close()
    await copy(database_url, target_url)
    async with started_client(make_settings(target_url), clock) as client:
        last_skipped = 1 + IDS_AFTER_BACKUP
        assert last_skipped < await register(client, GALAHAD) <= last_skipped + 2


async def test_a_target_that_is_not_empty_is_refused_and_stays_as_it_is(
    database_url: str, target_url: str, clock: Clock
) -> None:
    async with started_client(make_settings(target_url), clock):
        pass  # makes a signing key
    before = await read_all(target_url)
    with pytest.raises(CopyError, match="not empty: it has rows in the table signing_keys"):
        await copy(database_url, target_url)
    assert await read_all(target_url) == before


async def test_a_target_of_another_version_is_not_migrated(
    database_url: str, target_url: str
) -> None:
    await execute(target_url, "UPDATE hourpass_version SET version_num = '0001'")
    with pytest.raises(CopyError, match="tables of another version of Hourpass"):
        await copy(database_url, target_url)


async def test_a_target_with_tables_of_another_application_is_refused(
    database_url: str, new_target_url: str
) -> None:
    await execute(new_target_url, "CREATE TABLE users (id integer)")
    with pytest.raises(CopyError, match="users, which belongs to another application"):
        await copy(database_url, new_target_url)


async def test_the_source_is_no_target(database_url: str, tmp_path: Path) -> None:
    with pytest.raises(CopyError, match="The target is the source"):
        await copy(database_url, database_url)
    if database_url.startswith("sqlite"):
        link = tmp_path / "link.db"
        link.symlink_to(database_url.removeprefix("sqlite:///"))
        with pytest.raises(CopyError, match="The target is the source"):
            await copy(database_url, f"sqlite:///{link}")


# The changes of a row, and what the error says.
BAD_ROWS = {
    "a NUL": (
        "UPDATE users SET username = 'sir' || char(0) || 'secret' WHERE id = 1001",
        "the row with id 1001 of the table users, column username: it has a NUL character",
    ),
    "a long text": (
        "UPDATE users SET email = printf('%0255d', 1) WHERE id = 1001",
        "column email: it has 255 characters, and 254 are possible",
    ),
    "a big number": (
        "UPDATE users SET token_epoch = 4294967296 WHERE id = 1001",
        "column token_epoch: the number is too large",
    ),
    "a text in place of a number": (
        "UPDATE users SET token_epoch = 'secret' WHERE id = 1001",
        "column token_epoch: it has a value of another type, str",
    ),
    "a text in place of a time": (
        "UPDATE users SET created_at = 'secret' WHERE id = 1001",
        "Cannot read the row with id 1001 of the table users: a value is not of its column's",
    ),
    "a text that is not UTF-8": (
        "UPDATE users SET email = CAST(x'ff736563726574' AS TEXT) WHERE id = 1001",
        "Cannot read the row with id 1001 of the table users",
    ),
    "a primary key that is not a number": (
        "UPDATE sessions SET scope = 'secret' || char(0) WHERE user_id = 1001",
        "row 2 of the table sessions, in the order of its primary key, column scope",
    ),
    "a user who does not exist": (
        "UPDATE sessions SET user_id = 5000 WHERE user_id = 1001",
        "one of the rows 1 to 3 of the table sessions",
    ),
}


@on_sqlite
async def test_a_row_that_cannot_be_stored_is_named_without_its_values(
    database_url: str, target_url: str, tmp_path: Path, subtests: pytest.Subtests
) -> None:
    await fill(database_url)
    for name, (change, words) in BAD_ROWS.items():
        changed = tmp_path / f"{name}.db"
        shutil.copy(database_url.removeprefix("sqlite:///"), changed)
        await execute(f"sqlite:///{changed}", change)
        with subtests.test(name):
            with pytest.raises(CopyError) as refused:
                await copy(f"sqlite:///{changed}", target_url)
            assert words in str(refused.value)
            assert "secret" not in str(refused.value)
    assert await is_empty(target_url)


@pytest.mark.usefixtures("app")
async def test_a_source_with_a_running_service_is_refused_unless_it_is_a_rehearsal(
    database_url: str, target_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(source_module, "SERVICE_STOP_SECONDS", 0.1)
    with pytest.raises(CopyError, match="Another process uses the source"):
        await copy(database_url, target_url)
    await copy(database_url, target_url, is_rehearsal=True)
    assert len((await read_all(target_url))["users"]) == 1


async def test_nothing_is_written_to_the_source_meanwhile(
    database_url: str, target_url: str
) -> None:
    def write(done: int, total: int) -> None:
        if done == total // 2:  # copied, and not compared yet
            thread.submit(asyncio.run, try_to_write(database_url)).result()

    with ThreadPoolExecutor(1) as thread:
        for is_rehearsal in (False, True):
            with pytest.raises(AssertionError, match="the source cannot be written"):
                await copy(database_url, target_url, is_rehearsal=is_rehearsal, progress=write)
            await try_to_write(database_url)


async def try_to_write(url: str) -> None:
    """Raises AssertionError if a lock is in the way."""
    statement = "UPDATE users SET is_enabled = is_enabled"
    try:
        if url.startswith("sqlite"):
            path = url.removeprefix("sqlite:///")
            with closing(sqlite3.connect(path, timeout=0, isolation_level=None)) as connection:
                connection.execute(statement)
        else:
            await execute(url, "SET lock_timeout = '10ms'", statement)
    except (sqlite3.OperationalError, asyncpg.LockNotAvailableError) as error:
        raise AssertionError("the source cannot be written") from error


async def test_after_a_failure_the_target_is_empty_and_can_be_used_again(
    database_url: str, target_url: str
) -> None:
    await fill(database_url)

    def fail(done: int, total: int) -> None:
        if done == total:
            raise RuntimeError

    with pytest.raises(RuntimeError):
        await copy(database_url, target_url, progress=fail)
    assert await is_empty(target_url)
    await copy(database_url, target_url)
    assert await read_all(target_url) == await read_all(database_url)


KILLED = """
import asyncio, os, signal, sys
from app.operations.database_copy.service import copy_database
from app.settings import Settings

def kill(done, total):
    if done > total * 3 // 4:
        os.kill(os.getpid(), signal.SIGKILL)

source, target = (Settings(database_url=url) for url in sys.argv[1:])
asyncio.run(copy_database(source, target, progress=kill))
"""


async def test_kill_9_leaves_an_empty_target(database_url: str, target_url: str) -> None:
    await fill(database_url)
    process = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-c", KILLED, database_url, target_url],
        cwd=ROOT,
        env=environment(),
        check=False,
    )
    assert process.returncode == -9
    assert await is_empty(target_url)
    await copy(database_url, target_url)
    assert await read_all(target_url) == await read_all(database_url)


async def test_a_target_that_stores_something_else_is_noticed(
    database_url: str, target_url: str
) -> None:
    if target_url.startswith("sqlite"):
        trigger = (
            "CREATE TRIGGER forgetful AFTER INSERT ON users"
            " BEGIN UPDATE users SET is_admin = 0 WHERE id = NEW.id; END"
        )
        await execute(target_url, trigger)
    else:
        function = (
            "CREATE FUNCTION forget() RETURNS trigger LANGUAGE plpgsql AS"
            " $$ BEGIN NEW.is_admin := false; RETURN NEW; END $$"
        )
        trigger = (
            "CREATE TRIGGER forgetful BEFORE INSERT ON users FOR EACH ROW EXECUTE FUNCTION forget()"
        )
        await execute(target_url, function, trigger)
    with pytest.raises(CopyError, match="The table users is not the same in the target"):
        await copy(database_url, target_url)
    assert await is_empty(target_url)


@on_postgresql
async def test_a_source_whose_lock_was_lost_is_not_copied(
    database_url: str, target_url: str, postgres: Postgres
) -> None:
    name = make_url(database_url).database

    def disconnect(done: int, total: int) -> None:
        if done == total:
            postgres.run(
                f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'"
            )

    with pytest.raises(CopyError, match="The source cannot be used"):
        await copy(database_url, target_url, progress=disconnect)
    assert await is_empty(target_url)


@on_postgresql
async def test_a_pooler_in_between_changes_nothing(
    database_url: str, target_url: str, tmp_path: Path
) -> None:
    """PgBouncer gives each transaction another connection, and the copy is one transaction."""
    await fill(database_url)
    parts = make_url(database_url)
    directory = parts.query["host"]
    assert isinstance(directory, str)
    with pgbouncer(tmp_path, directory) as port:
        through = f"postgresql://postgres@127.0.0.1:{port}/{parts.database}"
        await copy(through, target_url)
        rows = await read_all(database_url)
        assert await read_all(target_url) == rows
        await execute(database_url, "DROP SCHEMA public CASCADE", "CREATE SCHEMA public")
        await copy(target_url, through)
        assert await read_all(database_url) == rows


async def test_rows_are_read_page_by_page(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rows_module, "PAGE_ROWS", IN_PAGES)
    await fill(database_url)
    database = Database(make_settings(database_url))
    async with database.engine.connect() as connection:
        for table in copied_tables():
            pages = [page async for page in read_pages(connection, table)]
            found = {tuple(row) for page in pages for row in page}
            assert all(len(page) <= IN_PAGES for page in pages)
            assert found == {tuple(row) for row in (await connection.execute(select(table))).all()}
    await database.close()


async def test_the_checksum_of_two_values_in_each_others_row_is_another(app: FastAPI) -> None:
    async with app.state.database.session() as session:
        await begin_write(session)
        now = app.state.clock()
        for name in ("galahad", "lancelot"):
            session.add(
                User(
                    username=name,
                    username_folded=name,
                    password_hash="!",
                    is_admin=name == "galahad",
                    created_at=now,
                )
            )
        await session.flush()
        query = select(User.username, User.is_admin).order_by(User.id)
        before = (await session.execute(query)).all()
        swapped = (await session.execute(select(User.username, ~User.is_admin))).all()
        sums = []
        for rows in (before, before[::-1], swapped):
            checksum = Checksum()
            checksum.add(rows)
            sums.append(checksum.hexdigest())
    assert sums[0] == sums[1] != sums[2]
