"""A database that other applications use too. Their tables and their alembic_version are never
taken for ours, and nothing of theirs changes.
"""

import asyncio
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from click.testing import CliRunner
from sqlalchemy import Connection, inspect, text

from app.cli.main import main
from app.database import migrations
from app.database.engine import Database
from app.database.readiness import check_writable
from app.database.version_table import SchemaError
from app.settings import Settings
from app.tables import metadata
from tests.support.apps import started_client
from tests.support.database_templates import Postgres
from tests.support.migrations import in_database, upgrade
from tests.support.settings import CHEAP_HASHING, Clock, make_settings

USERS = "CREATE TABLE users (id integer PRIMARY KEY, username text, password_hash text)"
A_HASH = "3f2a9c81d4e7"
# Another application with Alembic, by its revision and the table that we would create.
FOREIGN = {
    "one of our revisions": ("0007", [USERS], "users"),
    "our newest revision": (migrations.HEAD, [USERS], "users"),
    "a hash": (A_HASH, [USERS], "users"),
    "no Alembic": (None, ["CREATE TABLE sessions (id integer)"], "sessions"),
    "a view": ("0007", ["CREATE VIEW codes AS SELECT 1 AS one"], "codes"),
    "several tables": (
        "0001",
        [USERS, *(f"CREATE TABLE {name} (id integer)" for name in ("outbox", "codes", "sessions"))],
        "codes, outbox, sessions, …",
    ),
}


@pytest.fixture
def settings(empty_database_url: str) -> Settings:
    return make_settings(empty_database_url)


def execute(settings: Settings, *statements: str) -> None:
    def run(connection: Connection) -> None:
        for statement in statements:
            connection.execute(text(statement))

    in_database(settings, run)


def set_foreign_revision(settings: Settings, revision: str | None) -> None:
    if revision is not None:
        execute(
            settings,
            "CREATE TABLE alembic_version (version_num varchar(32) NOT NULL,"
            " CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num))",
            f"INSERT INTO alembic_version VALUES ('{revision}')",
        )


def described(settings: Settings) -> dict[str, list[str]]:
    """The columns of all tables and views, and the revision of the other application."""

    def read(connection: Connection) -> dict[str, list[str]]:
        inspector = inspect(connection)
        names = [*inspector.get_table_names(), *inspector.get_view_names()]
        found = {name: [c["name"] for c in inspector.get_columns(name)] for name in names}
        if "alembic_version" in found:
            rows = connection.execute(text("SELECT version_num FROM alembic_version"))
            found["alembic_version"] += rows.scalars().all()
        return found

    return in_database(settings, read)


def check(settings: Settings) -> None:
    """What a start in production does."""

    async def run() -> None:
        database = Database(settings)
        try:
            await migrations.check(database.engine)
            await check_writable(database)
        finally:
            await database.close()

    asyncio.run(run())


def empty(settings: Settings) -> None:
    if settings.database_url.startswith("sqlite"):
        Path(settings.database_url.partition(":///")[2]).unlink(missing_ok=True)
    else:
        execute(settings, "DROP SCHEMA public CASCADE", "CREATE SCHEMA public")


def test_tables_of_another_application_are_named_and_left_alone(
    settings: Settings, subtests: pytest.Subtests
) -> None:
    for name, (revision, statements, named) in FOREIGN.items():
        empty(settings)
        set_foreign_revision(settings, revision)
        execute(settings, *statements)
        before = described(settings)
        with subtests.test(name):
            for look in (migrations.upgrade, check):
                with pytest.raises(SchemaError) as refused:
                    look(settings)
                message = str(refused.value)
                assert f"already has {named}, which belongs to another application" in message
                assert "\n" not in message
            assert described(settings) == before


def test_whatever_opens_the_database_looks_first(settings: Settings) -> None:
    set_foreign_revision(settings, migrations.HEAD)
    execute(settings, USERS)
    before = described(settings)

    async def start() -> None:
        async with started_client(settings, Clock()):
            pass

    with pytest.raises(SchemaError, match="already has users"):
        upgrade(settings, "head")  # as `alembic upgrade`
    with pytest.raises(SchemaError, match="already has users"):
        asyncio.run(start())
    remedy = "CREATE SCHEMA hourpass"
    if settings.database_url.startswith("sqlite"):
        remedy = "another file"
    variables = {**CHEAP_HASHING, "DATABASE_URL": settings.database_url}
    for command in (
        ["migrate"],
        ["serve", "--port", "0"],
        ["keys", "list"],
        ["create-admin", "arthur"],
        ["after-restore", "--yes"],
    ):
        result = CliRunner().invoke(main, command, input="once and future king\n", env=variables)
        assert result.exit_code == 1
        [line] = result.output.splitlines()
        assert "already has users" in line
        assert remedy in line
    assert described(settings) == before


def test_other_tables_are_no_hindrance(settings: Settings) -> None:
    set_foreign_revision(settings, "0009")
    execute(settings, "CREATE TABLE orders (id integer)")
    before = described(settings)
    migrations.upgrade(settings)
    migrations.upgrade(settings)
    after = described(settings)
    assert {name: after[name] for name in before} == before
    assert after.keys() - before.keys() == {*metadata.tables, "hourpass_version"}


def test_a_table_that_a_later_migration_would_create_is_named(settings: Settings) -> None:
    upgrade(settings, "0010")
    execute(settings, "CREATE TABLE setup_steps (id integer)")
    before = described(settings)
    with pytest.raises(SchemaError, match="already has setup_steps, which belongs to another"):
        migrations.upgrade(settings)
    assert described(settings) == before


def test_databases_of_older_versions_are_adopted_and_their_name_is_free_again(
    settings: Settings,
) -> None:
    upgrade(settings, "0011")
    execute(settings, "ALTER TABLE hourpass_version RENAME TO alembic_version")
    if settings.database_url.startswith("postgresql"):
        execute(settings, "ALTER INDEX hourpass_version_pkc RENAME TO alembic_version_pkc")

    with pytest.raises(SchemaError, match=r"behind this version \(at 0011"):
        check(settings)
    migrations.upgrade(settings)
    check(settings)
    assert "alembic_version" not in described(settings)
    set_foreign_revision(settings, A_HASH)
    migrations.upgrade(settings)
    check(settings)
    assert described(settings)["alembic_version"] == ["version_num", A_HASH]


def test_the_file_of_another_application_keeps_its_access_and_its_journal(tmp_path: Path) -> None:
    path = tmp_path / "theirs.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(USERS)
    path.chmod(0o664)
    before = path.read_bytes()
    settings = make_settings(f"sqlite:///{path}")

    async def start() -> None:
        async with started_client(settings, Clock()):
            pass

    with pytest.raises(SchemaError, match="already has users"):
        asyncio.run(start())
    assert path.read_bytes() == before
    assert path.stat().st_mode & 0o777 == 0o664
    assert list(tmp_path.iterdir()) == [path]


@pytest.fixture
def shared(postgres: Postgres) -> Iterator[str]:
    """The URL of a database of another application, with a schema for us."""
    with postgres.database() as url:
        public = make_settings(url)
        set_foreign_revision(public, "0007")
        execute(public, USERS, "CREATE SCHEMA hourpass", "CREATE SCHEMA staging")
        yield url


def test_a_schema_of_its_own_is_enough(shared: str, subtests: pytest.Subtests) -> None:
    public = make_settings(shared)
    before = described(public)

    async def start(settings: Settings) -> None:
        async with started_client(settings, Clock()) as client:
            assert (await client.get("/readyz")).status_code == 200

    # The first one also finds the tables of the other application, which are behind it.
    for option in (
        "search_path=hourpass,public",
        "search_path=hourpass",
        "options=-csearch_path%3Dhourpass",
    ):
        settings = make_settings(f"{shared}&{option}")
        with subtests.test(option):
            migrations.upgrade(settings)
            asyncio.run(start(settings))
            assert described(settings).keys() >= {*metadata.tables, "hourpass_version"}
            assert described(public) == before
    # Another one, which the search path leads to as well.
    staging = make_settings(f"{shared}&search_path=staging,hourpass")
    migrations.upgrade(staging)
    execute(staging, "INSERT INTO staging.setup_steps VALUES ('first_admin', now())")
    rows = in_database(settings, lambda c: c.execute(text("SELECT * FROM setup_steps")).all())
    assert rows == []


def test_a_schema_that_is_not_there_is_named(shared: str) -> None:
    """PostgreSQL would pass over it, and use the next one."""
    for path in ("nowhere", "nowhere,hourpass"):
        settings = make_settings(f"{shared}&search_path={path}")
        with pytest.raises(SchemaError, match="begins with the schema nowhere, which does not"):
            migrations.upgrade(settings)
