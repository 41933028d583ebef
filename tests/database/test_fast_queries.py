"""A statement that goes straight to the driver has the same result as with SQLAlchemy."""

import asyncio

import pytest
from fastapi import FastAPI
from sqlalchemy import bindparam, func, insert, select, text

from app.audit.models import Entry
from app.audit.service import write_entry
from app.context import RequestContext
from app.database import fast_queries
from app.database.engine import Database, begin_write
from app.errors import UnavailableError
from app.events import Event
from app.settings import Settings
from app.users.models import User
from tests.support.markers import on_postgresql, on_sqlite
from tests.support.settings import Clock
from tests.support.users import ARTHUR

ARTHURS = {"name": ARTHUR["username"]}
BY_NAME = select(
    User.id, User.username, User.email, User.is_enabled, User.token_version, User.created_at
).where(User.username_folded == bindparam("name"))
BY_TIME = select(User.id).where(User.created_at <= bindparam("now"), User.is_enabled)
ENTRIES = select(func.count(Entry.id)).where(Entry.action == bindparam("action"))


async def test_rows_are_the_same_as_those_of_the_session(app: FastAPI, clock: Clock) -> None:
    async with app.state.database.session() as session:
        alone = [
            [tuple(row) for row in await fast_queries.run(session, BY_NAME, ARTHURS)],
            [tuple(row) for row in await fast_queries.run(session, BY_TIME, {"now": clock()})],
            await fast_queries.run(session, BY_NAME, {"name": "nobody"}),
        ]
        assert not session.in_transaction()
        beside = [
            [tuple(row) for row in (await session.execute(BY_NAME, ARTHURS)).all()],
            [tuple(row) for row in (await session.execute(BY_TIME, {"now": clock()})).all()],
            [],
        ]
    assert alone == beside
    assert alone[0][0][5] == clock()


LOGIN = Event("login", 1, True, {"of": "Arthur's"})


async def test_a_single_write_is_committed_at_once(app: FastAPI, clock: Clock) -> None:
    database: Database = app.state.database
    async with database.session() as session, database.session() as other:
        await write_entry(RequestContext(session, clock(), "192.0.2.7"), LOGIN)
        entry = await other.scalar(select(Entry).where(Entry.action == "login"))
        assert entry
        assert (entry.at, entry.succeeded, entry.ip_address) == (clock(), True, "192.0.2.7")


async def test_within_a_transaction_a_statement_is_part_of_it(app: FastAPI, clock: Clock) -> None:
    async with app.state.database.session() as session:
        await begin_write(session)
        await write_entry(RequestContext(session, clock(), "192.0.2.7"), LOGIN)
        assert await fast_queries.run(session, ENTRIES, {"action": "login"}) == [(1,)]
        await session.rollback()
        assert [
            tuple(row) for row in await fast_queries.run(session, ENTRIES, {"action": "login"})
        ] == [(0,)]


async def test_an_error_of_the_database_leaves_no_transaction_open(app: FastAPI) -> None:
    database: Database = app.state.database
    incomplete = insert(Entry.__table__).inline()  # type: ignore[arg-type] # a Table, as declared
    async with database.session() as session:
        with pytest.raises(Exception, match=r"(?i)not.null"):
            await fast_queries.run(session, incomplete, {"action": "login"})
        assert await fast_queries.run(session, BY_NAME, ARTHURS)


@on_postgresql
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # what is cut off
async def test_a_connection_that_the_server_closes_meanwhile_is_an_outage(app: FastAPI) -> None:
    database: Database = app.state.database
    stopping = select(func.pg_terminate_backend(func.pg_backend_pid()))
    with pytest.raises(UnavailableError):
        async with database.session() as session:
            await fast_queries.run(session, stopping, {})
    async with database.session() as session:
        assert await fast_queries.run(session, BY_NAME, ARTHURS)


async def test_a_cancelled_statement_blocks_no_other(app: FastAPI) -> None:
    database: Database = app.state.database
    async with database.session() as session:
        asked = asyncio.create_task(fast_queries.run(session, BY_NAME, ARTHURS))
        await asyncio.sleep(0)
        asked.cancel()
        assert await fast_queries.run(session, BY_NAME, ARTHURS)


@on_postgresql
async def test_a_slow_statement_does_not_hold_up_the_next(app: FastAPI) -> None:
    database: Database = app.state.database
    lock = select(func.pg_advisory_xact_lock(bindparam("number")))
    async with database.session() as holder, database.session() as session:
        await holder.execute(lock, {"number": 4})
        waiting = asyncio.create_task(fast_queries.run(session, lock, {"number": 4}))
        await asyncio.sleep(0)
        assert await fast_queries.run(session, BY_NAME, ARTHURS)
        assert not waiting.done()
        await holder.commit()
        await waiting


@on_postgresql
async def test_a_worker_has_no_more_connections_than_documented(
    app: FastAPI, settings: Settings
) -> None:
    """Those of the pool, one for single statements and one for revocations."""
    database: Database = app.state.database

    async def ask() -> None:
        async with database.session() as session:
            await fast_queries.run(session, BY_NAME, ARTHURS)
            await session.scalar(select(func.pg_sleep(0.01)))

    await asyncio.gather(*(ask() for _ in range(3 * settings.database_pool_size)))
    opened = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
    async with database.session() as session:
        assert await session.scalar(text(opened)) == settings.database_pool_size + 2


@on_sqlite
async def test_a_failed_read_is_repeated_with_pauses(
    app: FastAPI, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And if the driver cannot read it either, it is an outage."""
    database: Database = app.state.database
    nowhere = "/nowhere/hourpass.db"
    async with database.session() as session:
        monkeypatch.setattr(session.info["fast_queries"]._reader, "path", nowhere)
        assert await fast_queries.run(session, BY_NAME, ARTHURS)
    monkeypatch.setattr(database.connector, "path", nowhere)
    database.connector.discard_all()
    with pytest.raises(UnavailableError):
        async with database.session() as session:
            await fast_queries.run(session, BY_NAME, ARTHURS)
