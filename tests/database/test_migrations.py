"""Each migration keeps all rows and can be downgraded; at HEAD, the tables are the models'."""

from typing import Any

import pytest
from alembic import command
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, insert, inspect

from app.database import migrations
from app.database.version_table import VERSION_TABLE
from app.settings import ROOT, Settings
from app.tables import metadata
from tests.support.forked_process import ForkedProcess
from tests.support.migrations import (
    SAMPLES,
    downgrade,
    in_database,
    scripts,
    tables_of,
    upgrade,
)
from tests.support.processes import environment
from tests.support.service_process import SERVE_TIMEOUT_SECONDS
from tests.support.settings import CHEAP_HASHING, make_settings

Rows = dict[str, list[dict[str, Any]]]

# Columns whose values a migration makes up. An upgrade after a downgrade makes up others.
MADE_UP = {"revocation_feed": {"name"}}


@pytest.fixture
def empty_settings(empty_database_url: str) -> Settings:
    return make_settings(empty_database_url)


@pytest.fixture
def settings(database_url: str) -> Settings:
    """With the mark `first_start`, the database is at HEAD and has no users."""
    return make_settings(database_url)


def revisions() -> list[str]:
    """Oldest first."""
    return [script.revision for script in scripts().walk_revisions()][::-1]


def read(connection: Connection) -> Rows:
    rows = {}
    for name in inspect(connection).get_table_names():
        if name != VERSION_TABLE:
            made_up = MADE_UP.get(name, set())
            found = connection.exec_driver_sql(f'SELECT * FROM "{name}"').mappings()
            rows[name] = [
                {column: value for column, value in row.items() if column not in made_up}
                for row in found
            ]
    return rows


def read_and_fill(connection: Connection) -> tuple[Rows, Rows]:
    """The rows before and after each empty table got a row."""
    before = read(connection)
    empty = [name for name, rows in before.items() if not rows]
    if not empty:
        return before, before
    for table in tables_of(connection, only=empty):
        if table.name in empty:
            row = {column.name: SAMPLES[column.type.python_type] for column in table.columns}
            connection.execute(insert(table).values(row))
    return before, read(connection)


def assert_kept(before: Rows, after: Rows) -> None:
    """Every row of every table that is still there, in every column that is still there."""
    for name in before.keys() & after.keys():
        assert len(after[name]) == len(before[name]), f"{name} lost rows"
        for old, new in zip(before[name], after[name], strict=True):
            shared = old.keys() & new.keys()
            assert {key: new[key] for key in shared} == {key: old[key] for key in shared}


def test_every_revision_can_be_downgraded_and_keeps_the_rows(
    empty_settings: Settings, monkeypatch: pytest.MonkeyPatch, subtests: pytest.Subtests
) -> None:
    settings, read_once = empty_settings, scripts()  # not for each of sixty commands
    monkeypatch.setattr(ScriptDirectory, "from_config", lambda _: read_once)
    previous, before = "base", Rows()
    for revision in revisions():
        upgrade(settings, revision)
        upgraded = in_database(settings, read)
        assert_kept(before, upgraded)
        downgrade(settings, previous)
        assert in_database(settings, read) == before, f"the downgrade from {revision} lost rows"
        upgrade(settings, revision)
        again, before = in_database(settings, read_and_fill)
        assert again == upgraded, f"{revision} is not the same again"
        previous = revision
    assert all(len(rows) == 1 for rows in before.values())
    with subtests.test("upgrading a database at HEAD changes nothing"):
        migrations.upgrade(settings)
        upgrade(settings, "head")
        assert in_database(settings, read) == before
    with subtests.test("from HEAD with rows to nothing and back"):
        downgrade(settings, "base")
        assert in_database(settings, read) == {}
        migrations.upgrade(settings)
        assert set(in_database(settings, read)) == set(metadata.tables)


@pytest.mark.first_start
def test_the_tables_are_those_of_the_models(settings: Settings, subtests: pytest.Subtests) -> None:
    with subtests.test("autogenerate finds no difference"):  # by way of env.py, as `make migration`
        command.check(migrations.alembic_config(settings))  # raises an error with what it finds
    # What autogenerate does not compare.
    with subtests.test("primary keys"):
        found = {table.name: table for table in in_database(settings, tables_of)}
        for name, table in metadata.tables.items():
            assert found[name].primary_key.columns.keys() == table.primary_key.columns.keys()
    if settings.database_url.startswith("sqlite"):
        with subtests.test("ids that are never used again"):
            tables = {"audit_log", "codes", "groups", "outbox", "users"}
            tables |= {"webhook_deliveries", "webhook_endpoints"}
            declared = {
                name
                for name, table in metadata.tables.items()
                if table.dialect_options["sqlite"]["autoincrement"]
            }
            assert in_database(settings, tables_with_autoincrement) == declared == tables


def tables_with_autoincrement(connection: Connection) -> set[str]:
    query = "SELECT name FROM sqlite_master WHERE sql LIKE '%AUTOINCREMENT%'"
    return set(connection.exec_driver_sql(query).scalars())


def test_the_code_expects_the_newest_revision_and_knows_all_before_it() -> None:
    assert scripts().get_heads() == [migrations.HEAD]
    assert all(migrations.is_known(revision) for revision in revisions())
    assert not migrations.is_known("from tomorrow")


def test_the_folder_is_no_package_which_would_hide_the_library() -> None:
    assert not (ROOT / "alembic" / "__init__.py").exists()


def test_three_migrations_at_once_of_one_empty_database_all_succeed(
    empty_settings: Settings,
) -> None:
    variables = environment(DATABASE_URL=empty_settings.database_url, **CHEAP_HASHING)
    running = [ForkedProcess("migrate", directory=str(ROOT), variables=variables) for _ in range(3)]
    assert [process.wait(SERVE_TIMEOUT_SECONDS) for process in running] == [0] * 3
    assert set(in_database(empty_settings, read)) == set(metadata.tables)
