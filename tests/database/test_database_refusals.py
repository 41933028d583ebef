"""An outage of the database is a 503, a fault of the service a 500."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from fastapi import FastAPI
from httpx import AsyncClient
from sqlalchemy import Select, Update, column, func, make_url, select, table, text, update

from app.database import fast_queries, migrations
from app.database.engine import Database
from app.database.postgres_driver import Connection
from app.database.readiness import NotWritableError, check_writable
from app.database.version_table import SchemaError
from app.errors import UnavailableError
from app.settings import Settings
from app.users.models import User
from tests.support.database_templates import Postgres
from tests.support.databases import DISCONNECT, ORDINARY_ROLE, in_database, ordinary_role
from tests.support.markers import on_postgresql
from tests.support.settings import make_settings
from tests.support.users import ARTHUR, assert_problem, log_in

__all__ = ["ordinary_role"]


@contextmanager
def refusing(postgres: Postgres, name: str | None, do: str, undo: str) -> Iterator[None]:
    postgres.run(do)
    postgres.run(DISCONNECT.format(name=name))
    try:
        yield
    finally:
        postgres.run(undo)


REFUSALS = {
    "role without login": (
        f"ALTER ROLE {ORDINARY_ROLE} NOLOGIN",
        f"ALTER ROLE {ORDINARY_ROLE} LOGIN",
        "it refuses the role",
    ),
    "too many connections": (
        f"ALTER ROLE {ORDINARY_ROLE} CONNECTION LIMIT 0",
        f"ALTER ROLE {ORDINARY_ROLE} CONNECTION LIMIT -1",
        "it has too many connections",
    ),
    "no connections allowed": (
        "ALTER DATABASE {name} ALLOW_CONNECTIONS false",
        "ALTER DATABASE {name} ALLOW_CONNECTIONS true",
        "SQLSTATE 55000",
    ),
}


@on_postgresql
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # what is cut off
@pytest.mark.parametrize(("do", "undo", "words"), REFUSALS.values(), ids=REFUSALS)
async def test_a_refused_connection_is_a_503_and_passes(
    ordinary_role: Settings,
    postgres: Postgres,
    caplog: pytest.LogCaptureFixture,
    do: str,
    undo: str,
    words: str,
) -> None:
    name = make_url(ordinary_role.database_url).database
    database = Database(ordinary_role)
    count = select(func.count(User.id))
    async with database.session() as session:
        assert await fast_queries.run(session, count, {})
    with refusing(postgres, name, do.format(name=name), undo.format(name=name)):
        for _ in range(2):  # first a connection of before, then a new one
            with pytest.raises(UnavailableError):
                async with database.session() as session:
                    await fast_queries.run(session, count, {})
    assert words in caplog.text
    async with database.session() as session:
        assert await session.scalar(count) == 1
    await database.close()


@on_postgresql
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # what is cut off
async def test_a_database_that_was_renamed_is_a_503(
    client: AsyncClient, settings: Settings, postgres: Postgres
) -> None:
    name = make_url(settings.database_url).database
    postgres.run(DISCONNECT.format(name=name))
    postgres.run(f"ALTER DATABASE {name} RENAME TO renamed")
    try:
        assert_problem(await client.post("/token", json=ARTHUR), 503, "temporarily_unavailable")
        assert_problem(await client.post("/token", json=ARTHUR), 503, "temporarily_unavailable")
    finally:
        postgres.run(DISCONNECT.format(name="renamed"))
        postgres.run(f"ALTER DATABASE renamed RENAME TO {name}")
    assert await log_in(client, ARTHUR)


@on_postgresql
async def test_a_missing_permission_is_a_503_whose_log_line_has_the_remedy(
    ordinary_role: Settings, postgres: Postgres, caplog: pytest.LogCaptureFixture
) -> None:
    name = make_url(ordinary_role.database_url).database
    database = Database(ordinary_role)
    await check_writable(database)
    in_database(postgres, name, f"REVOKE INSERT, UPDATE, DELETE ON users FROM {ORDINARY_ROLE}")
    with pytest.raises(UnavailableError):
        await _run(database, update(User).values(is_enabled=True), by_driver=False)
    [line] = [record for record in caplog.records if record.levelname == "ERROR"]
    assert "lacks a permission on users." in line.getMessage()
    assert "GRANT SELECT, INSERT, UPDATE, DELETE ON users TO" in line.getMessage()
    with pytest.raises(NotWritableError, match=r"lacks a permission on users\. As the owner"):
        await check_writable(database)
    await database.close()


@on_postgresql
async def test_of_two_transactions_in_a_deadlock_one_is_a_503(app: FastAPI) -> None:
    database: Database = app.state.database
    lock = text("SELECT pg_advisory_xact_lock(:number)")

    async def lock_both(first: int, second: int, both: asyncio.Barrier) -> None:
        async with database.session() as session:
            await session.execute(lock, {"number": first})
            await both.wait()
            await session.execute(lock, {"number": second})

    both = asyncio.Barrier(2)
    outcomes = await asyncio.gather(
        lock_both(1, 2, both), lock_both(2, 1, both), return_exceptions=True
    )
    assert sorted(type(outcome).__name__ for outcome in outcomes) == [
        "NoneType",
        "UnavailableError",
    ]


@on_postgresql
async def test_a_single_statement_in_a_deadlock_is_tried_once_more(app: FastAPI) -> None:
    """It is a transaction by itself."""
    database: Database = app.state.database
    async with database.session() as session:
        await session.execute(text("CREATE SEQUENCE tries"))
        await session.execute(
            text(
                "CREATE FUNCTION fail_at_first() RETURNS bigint LANGUAGE plpgsql AS $$"
                " DECLARE number bigint := nextval('tries'); BEGIN"
                " IF number = 1 THEN RAISE EXCEPTION 'deadlock' USING ERRCODE = '40P01'; END IF;"
                " RETURN number; END $$"
            )
        )
        await session.commit()
        assert await fast_queries.run(session, select(func.fail_at_first()), {}) == [(2,)]


async def _run(database: Database, statement: Select[Any] | Update, *, by_driver: bool) -> None:
    async with database.session() as session:
        if by_driver:
            assert isinstance(statement, Select)
            await fast_queries.run(session, statement, {})
        else:
            await session.execute(statement)


@pytest.mark.parametrize("by_driver", [True, False], ids=["single statement", "transaction"])
async def test_a_fault_of_the_service_is_no_outage(app: FastAPI, *, by_driver: bool) -> None:
    unknown_table: Select[Any] = select(column("id")).select_from(table("nothing"))
    with pytest.raises(Exception, match="nothing") as caught:
        await _run(app.state.database, unknown_table, by_driver=by_driver)
    assert not isinstance(caught.value, UnavailableError)


NOT_NOW = ("25000", "25001", "25006", "25P01", "25P02", "25P03", "XX000", "08006", "57P01")


@on_postgresql
async def test_an_error_that_is_not_of_the_statement_is_a_503_and_gives_the_connection_up(
    app: FastAPI, subtests: pytest.Subtests
) -> None:
    database: Database = app.state.database
    pid = select(func.pg_backend_pid())
    for state in NOT_NOW:
        fail = text(f"DO $$ BEGIN RAISE EXCEPTION 'no' USING ERRCODE = '{state}'; END $$")
        with subtests.test(state):
            async with database.session() as session:
                before = await fast_queries.run(session, pid, {})
            with pytest.raises(UnavailableError):
                async with database.session() as session:
                    await session.execute(fail)
            async with database.session() as session:
                assert await fast_queries.run(session, pid, {}) != before


@pytest.mark.parametrize("by_driver", [True, False], ids=["single statement", "transaction"])
async def test_while_new_connections_are_given_up_as_well_it_is_a_503(
    app: FastAPI, *, by_driver: bool
) -> None:
    """Other requests fail meanwhile, and each of them gives up all connections."""
    database: Database = app.state.database
    count = select(func.count(User.id))
    read, database._fast_queries._reader = database._fast_queries._reader, None
    for discarded_at in (float("inf"), float("-inf"), float("inf"), float("-inf")):
        database.connector.discarded_at = discarded_at
        if discarded_at < 0:
            await _run(database, count, by_driver=by_driver)
            continue
        with pytest.raises(UnavailableError):
            await _run(database, count, by_driver=by_driver)
    database._fast_queries._reader = read


# Which of them a torn connection raises depends on the moment.
TORN = ("InternalClientError", "ProtocolError", "InterfaceError", "ConnectionDoesNotExistError")


@on_postgresql
@pytest.mark.parametrize("by_driver", [True, False], ids=["single statement", "transaction"])
async def test_a_torn_connection_is_a_503(
    app: FastAPI, monkeypatch: pytest.MonkeyPatch, subtests: pytest.Subtests, *, by_driver: bool
) -> None:
    database: Database = app.state.database
    for name in TORN:
        count = select(func.count(User.id).label(name))  # not prepared before
        before = database.connector.discarded_at
        error = getattr(asyncpg, name)("torn")

        async def fail(*_: object, error: Exception = error, **__: object) -> None:
            raise error

        with subtests.test(name):
            with monkeypatch.context() as meanwhile:
                meanwhile.setattr(Connection, "fetch", fail)
                meanwhile.setattr(Connection, "prepare", fail)  # which SQLAlchemy calls
                with pytest.raises(UnavailableError):
                    await _run(database, count, by_driver=by_driver)
            assert database.connector.discarded_at > before
            await _run(database, count, by_driver=by_driver)


@on_postgresql
async def test_an_error_after_an_outage_is_part_of_it(app: FastAPI) -> None:
    """For example that of a clean-up, on a connection that has gone."""
    database: Database = app.state.database

    async def fail_twice() -> None:
        async with database.session() as session:
            try:
                await session.execute(select(func.pg_terminate_backend(func.pg_backend_pid())))
            finally:
                await session.execute(text("SELECT 1"))

    with pytest.raises(UnavailableError):
        await fail_twice()


def test_a_file_that_is_no_database_is_named_so(tmp_path: Path) -> None:
    path = tmp_path / "letters.txt"
    path.write_text("Dear Arthur, " * 100)
    with pytest.raises(SchemaError, match=r"the file is not a SQLite database\.$"):
        migrations.upgrade(make_settings(f"sqlite:///{path}"))


@on_postgresql
@pytest.mark.usefixtures("ordinary_role")
def test_a_role_that_may_not_create_tables_cannot_migrate(postgres: Postgres) -> None:
    with postgres.database() as url:
        settings = make_settings(url.replace("postgres:@", f"{ORDINARY_ROLE}:@"))
        with pytest.raises(SchemaError, match="GRANT CREATE ON SCHEMA public"):
            migrations.upgrade(settings)
