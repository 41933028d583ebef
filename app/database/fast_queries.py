"""Runs single statements without SQLAlchemy's session and pool.

They halve the CPU time of a login without its hash: 1.4 ms instead of 3.0, which is what keeps
logins above 0.9 of the raw hash (benchmarks/fast_paths.py).

Statements are written with SQLAlchemy and compiled once each, so they must be constants.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from time import perf_counter
from typing import Any, NamedTuple, cast

from sqlalchemy import Dialect, Insert, Select, select
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement

from app.database import outages
from app.database.base import UtcDateTime
from app.database.connector import SQLITE_LOCK_SECONDS, Connector
from app.database.sqlite_driver import Reader
from app.database.statement_times import StatementTimes
from app.errors import UnavailableError

Processor = Callable[[Any], Any] | None
Statement = Select[*tuple[Any, ...]] | Insert

# Keys of a session's `info`.
FAST_QUERIES = "fast_queries"  # a FastQueries
CLOCK = "clock"  # replaces the database's clock in tests, or None


async def current_time(session: AsyncSession) -> datetime:
    """The database's time. Use it for times that one host writes and another one compares: the
    clock of a host may be wrong by hours."""
    if clock := session.info[CLOCK]:
        return cast("datetime", clock())
    ((now,),) = await run(session, _TIME, {})
    return cast("datetime", now)


class _CurrentTime(FunctionElement[datetime]):
    """When the statement began. CURRENT_TIMESTAMP is when the transaction began on PostgreSQL, and
    has whole seconds on SQLite."""

    type = UtcDateTime()
    inherit_cache = True


@compiles(_CurrentTime, "postgresql")
def _on_postgresql(*_: Any, **__: Any) -> str:
    return "statement_timestamp()"


@compiles(_CurrentTime, "sqlite")
def _on_sqlite(*_: Any, **__: Any) -> str:
    return "strftime('%Y-%m-%d %H:%M:%f', 'now')"


_TIME = select(_CurrentTime().label("now"))


async def run(
    session: AsyncSession, statement: Statement, parameters: Mapping[str, Any]
) -> Sequence[Any]:
    """Returns the rows as tuples. Part of the session's transaction if there is one; otherwise
    committed at once. Parameters cannot be lists."""
    if session.in_transaction():
        result = await session.execute(statement, parameters)
        return result.all() if isinstance(statement, Select) else ()
    assert isinstance(session.bind, AsyncEngine)
    compiled = _compile(statement, session.bind.dialect, tuple(parameters))
    values = [
        process(parameters[name]) if process else parameters[name]
        for name, process in compiled.parameters
    ]
    fast_queries: FastQueries = session.info[FAST_QUERIES]
    writes = not isinstance(statement, Select)
    rows = await fast_queries.fetch(compiled.sql, values, writes=writes)
    return [
        tuple(
            process(value) if process else value
            for process, value in zip(compiled.columns, row, strict=True)
        )
        for row in rows
    ]


class FastQueries:
    """Runs statements on one connection that is detached from the engine's pool. On SQLite, reads
    go to the Reader instead."""

    def __init__(self, engine: AsyncEngine, connector: Connector, reader: Reader | None) -> None:
        self._engine = engine
        self._connector = connector
        self._reader = reader
        self._driver: Any = None
        self._in_use = asyncio.Lock()
        self.times: StatementTimes | None = None

    async def fetch(self, sql: str, values: Sequence[Any], *, writes: bool) -> list[Any]:
        """Returns all rows, in a transaction that is committed at once. Raises the errors of
        SQLAlchemy and of the driver."""
        started_at = perf_counter()
        rows = self._reader.fetch(sql, values) if self._reader and not writes else None
        if rows is None:
            try:
                rows = await self._fetch(sql, values)
            except Exception as error:
                if not outages.is_conflict(error):
                    raise
                rows = await self._fetch(sql, values)
        if self.times:
            self.times.add(sql, started_at)
        await yield_to_event_loop()
        return rows

    async def close(self) -> None:
        if self._reader:
            self._reader.close()
        await self._close_driver()

    async def _fetch(self, sql: str, values: Sequence[Any]) -> list[Any]:
        # SQLite has one writer at a time. On PostgreSQL, use another connection instead of waiting.
        if self._in_use.locked() and not self._reader:
            async with self._engine.connect() as connection:
                driver: Any = (await connection.get_raw_connection()).driver_connection
                return await self._fetch_from(driver, sql, values)
        await self._acquire()
        try:
            driver = self._driver
            if (
                driver is None
                or driver.is_closed()
                or driver.opened_at <= self._connector.discarded_at
            ):
                await self._close_driver()
                proxy = await self._engine.raw_connection()
                driver = self._driver = proxy.driver_connection
                proxy.detach()
            return await self._fetch_from(driver, sql, values)
        finally:
            self._in_use.release()

    async def _acquire(self) -> None:
        try:
            async with asyncio.timeout(SQLITE_LOCK_SECONDS):
                await self._in_use.acquire()
        except TimeoutError as error:
            raise UnavailableError from error

    async def _fetch_from(self, driver: Any, sql: str, values: Sequence[Any]) -> list[Any]:
        try:
            return list(await driver.fetch(sql, *values))
        except Exception as error:
            if outages.loses_connections(error):
                self._connector.discard_all()
            raise

    async def _close_driver(self) -> None:
        if self._driver:
            driver, self._driver = self._driver, None
            await driver.close()


async def yield_to_event_loop() -> None:
    """Let the server first answer the requests that have arrived.

    One turn of the event loop is not enough: requests that it reads are answered in the next turn
    (server/batch.py), after the tasks that yielded for one turn.
    """
    await asyncio.sleep(0)
    await asyncio.sleep(0)


class _Compiled(NamedTuple):
    sql: str
    parameters: tuple[tuple[str, Processor], ...]  # in the order of the SQL
    columns: tuple[Processor, ...]


@lru_cache(maxsize=64)
def _compile(statement: Statement, dialect: Dialect, given: tuple[str, ...]) -> _Compiled:
    compiled = statement.compile(dialect=dialect, column_keys=given)
    names = compiled.positiontup or ()
    bound = [(name, compiled.binds[name].type.dialect_impl(dialect)) for name in names]
    columns = statement.selected_columns if isinstance(statement, Select) else ()
    read = [column.type.dialect_impl(dialect) for column in columns]
    return _Compiled(
        str(compiled),
        tuple((name, type_.bind_processor(dialect)) for name, type_ in bound),
        tuple(type_.result_processor(dialect, None) for type_ in read),
    )
