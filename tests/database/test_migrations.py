"""Alembic owns the schema: every step can be taken back, no row is lost, nothing is left to do."""

import asyncio
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, date, datetime
from typing import Any, TypeVar

import pytest
from alembic import command
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, MetaData, Table, insert, select

from app.database import migrations
from app.database.engine import create_engine
from app.database.version_table import VERSION_TABLE
from app.settings import ROOT, Settings
from app.tables import metadata
from tests.support.processes import environment
from tests.support.service_process import SERVE_TIMEOUT_SECONDS
from tests.support.settings import CHEAP_HASHING, make_settings

T = TypeVar("T")
Rows = dict[str, list[dict[str, Any]]]

SAMPLES: dict[type, object] = {
    bool: True,
    int: 7,
    float: 0.5,
    str: "x",
    bytes: b"x",
    datetime: datetime(2026, 11, 23, 12, 0, tzinfo=UTC),
    date: date(2026, 11, 23),
}


@pytest.fixture
def settings(empty_database_url: str) -> Settings:
    return make_settings(empty_database_url)


def scripts() -> ScriptDirectory:
    return ScriptDirectory.from_config(migrations.alembic_config(Settings()))


def revisions() -> list[str]:
    """Oldest first."""
    return [script.revision for script in scripts().walk_revisions()][::-1]


def upgrade(settings: Settings, revision: str) -> None:
    command.upgrade(migrations.alembic_config(settings), revision)


def downgrade(settings: Settings, revision: str) -> None:
    command.downgrade(migrations.alembic_config(settings), revision)


def in_database(settings: Settings, work: Callable[[Connection], T]) -> T:
    async def run() -> T:
        engine = create_engine(settings)
        try:
            async with engine.connect() as connection:
                writing = await connection.execution_options(sqlite_begin="BEGIN IMMEDIATE")
                async with writing.begin():
                    return await writing.run_sync(work)
        finally:
            await engine.dispose()

    return asyncio.run(run())


def tables_of(connection: Connection) -> list[Table]:
    """What is there now, whatever the code says; tables come after those that they refer to."""
    found = MetaData()
    found.reflect(connection)
    return [table for table in found.sorted_tables if table.name != VERSION_TABLE]


def fill(connection: Connection) -> None:
    """Give every table a row, unless it has one."""
    for table in tables_of(connection):
        if connection.execute(select(table)).first() is None:
            # Every number is the same one, so that a reference fits.
            row = {column.name: SAMPLES[column.type.python_type] for column in table.columns}
            connection.execute(insert(table).values(row))


# A migration names the feed anew each time, since it is another feed (0002).
MADE_UP = {"revocation_feed": {"name"}}


def read(connection: Connection) -> Rows:
    return {
        table.name: [
            {
                name: value
                for name, value in row.items()
                if name not in MADE_UP.get(table.name, set())
            }
            for row in connection.execute(select(table)).mappings()
        ]
        for table in tables_of(connection)
    }


def assert_kept(before: Rows, after: Rows) -> None:
    """Every row of every table that is still there, in every column that is still there."""
    for name in before.keys() & after.keys():
        assert len(after[name]) == len(before[name]), f"{name} lost rows"
        for old, new in zip(before[name], after[name], strict=True):
            shared = old.keys() & new.keys()
            assert {key: new[key] for key in shared} == {key: old[key] for key in shared}


def test_every_revision_can_be_taken_back_and_keeps_the_rows(settings: Settings) -> None:
    previous = "base"
    for revision in revisions():
        before = in_database(settings, read)
        upgrade(settings, revision)
        up = in_database(settings, read)
        assert_kept(before, up)
        downgrade(settings, previous)
        assert in_database(settings, read) == before
        upgrade(settings, revision)
        assert in_database(settings, read) == up
        in_database(settings, fill)
        previous = revision
    assert all(len(rows) == 1 for rows in in_database(settings, read).values())


def test_from_empty_to_head_and_back_to_nothing_twice(settings: Settings) -> None:
    for _ in range(2):
        migrations.upgrade(settings)
        assert set(in_database(settings, read)) == set(metadata.tables)
        in_database(settings, fill)
        downgrade(settings, "base")
        assert in_database(settings, read) == {}


def test_upgrading_what_is_at_head_changes_nothing(settings: Settings) -> None:
    migrations.upgrade(settings)
    in_database(settings, fill)
    before = in_database(settings, read)
    migrations.upgrade(settings)
    upgrade(settings, "head")
    assert in_database(settings, read) == before


def test_autogenerate_finds_nothing_to_do(settings: Settings) -> None:
    """Asked by way of env.py, as `make migration` does."""
    migrations.upgrade(settings)
    command.check(migrations.alembic_config(settings))  # raises what it finds


@pytest.mark.parametrize("empty_database_url", ["sqlite"], indirect=True)
def test_sqlite_uses_no_id_again_in_the_tables_that_say_so(settings: Settings) -> None:
    """Which `alembic check` does not compare."""
    migrations.upgrade(settings)
    find = "SELECT name FROM sqlite_master WHERE sql LIKE '%AUTOINCREMENT%'"
    made = in_database(
        settings, lambda connection: connection.exec_driver_sql(find).scalars().all()
    )
    declared = [
        name
        for name, table in metadata.tables.items()
        if table.dialect_options["sqlite"]["autoincrement"]
    ]
    tables = ["audit_log", "codes", "groups", "outbox", "users"]
    tables += ["webhook_deliveries", "webhook_endpoints"]
    assert sorted(made) == sorted(declared) == tables


def test_the_primary_keys_are_those_of_the_models(settings: Settings) -> None:
    """`alembic check` does not compare them either."""
    migrations.upgrade(settings)
    made = {table.name: table for table in in_database(settings, tables_of)}
    for name, table in metadata.tables.items():
        assert made[name].primary_key.columns.keys() == table.primary_key.columns.keys()


def test_the_code_expects_the_newest_revision_and_knows_all_before_it() -> None:
    assert scripts().get_heads() == [migrations.HEAD]
    assert all(migrations.is_known(revision) for revision in revisions())
    assert not migrations.is_known("from tomorrow")


def test_the_folder_is_no_package_which_would_hide_the_library() -> None:
    assert not (ROOT / "alembic" / "__init__.py").exists()


def test_three_migrations_at_once_of_one_empty_database_all_succeed(
    empty_database_url: str,
) -> None:
    running = [
        subprocess.Popen(
            [sys.executable, "-m", "hourpass", "migrate"],
            cwd=ROOT,
            env=environment(DATABASE_URL=empty_database_url, **CHEAP_HASHING),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(3)
    ]
    ended = [process.communicate(timeout=SERVE_TIMEOUT_SECONDS) for process in running]
    assert ended == [(f"The database is at {migrations.HEAD}.\n", "")] * 3
    assert [process.returncode for process in running] == [0] * 3
