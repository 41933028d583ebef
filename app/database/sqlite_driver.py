"""aiosqlite with fewer calls to its thread: one per statement instead of four, and none to end a
transaction that was never begun. Each call costs more than most statements.
"""

import asyncio
import sqlite3
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import aiosqlite

from app.database.connector import Connector

# It has tables, but not one that our databases have from the beginning.
_HAS_ONLY_FOREIGN_TABLES = (
    "SELECT count(*) > 0 AND NOT coalesce(max(name = 'signing_keys'), 0)"
    " FROM sqlite_master WHERE type = 'table'"
)


class SqliteConnector(Connector):
    def __init__(self, path: str, lock_seconds: float) -> None:
        """Statements wait up to `lock_seconds` for the transactions of others."""
        super().__init__()
        self._path = path
        self._lock_seconds = lock_seconds

    async def _open(self) -> "_Connection":
        opening = partial(_open, self._path, self._lock_seconds)
        connection = _Connection(opening, iter_chunk_size=64)
        connection._thread.daemon = True  # noqa: SLF001 - aiosqlite has no option for it; lets the process exit
        try:
            await connection
        except sqlite3.Error:
            await connection.stopped  # or its thread would call a closed event loop
            raise
        return connection


def _open(path: str, lock_seconds: float) -> sqlite3.Connection:
    # isolation_level=None: the driver itself would begin transactions too late; see engine.py.
    connection = sqlite3.connect(path, timeout=lock_seconds, isolation_level=None)
    if not _has_only_foreign_tables(connection):  # the mode is kept in the file
        connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=FULL")
    connection.execute("PRAGMA foreign_keys=ON")
    return connection


def is_foreign(path: Path) -> bool:
    """Whether it is the database of another application."""
    try:
        with closing(sqlite3.connect(path, isolation_level=None)) as connection:
            return _has_only_foreign_tables(connection)
    except sqlite3.Error:
        return False


def _has_only_foreign_tables(connection: sqlite3.Connection) -> bool:
    (has_only_foreign,) = connection.execute(_HAS_ONLY_FOREIGN_TABLES).fetchone()
    return bool(has_only_foreign)


class Reader:
    """Reads in the event loop: reading a row or two takes a tenth of the time of a call to the
    driver's thread. It never waits for a lock. Opens the file at the first read."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._connection: sqlite3.Connection | None = None

    def fetch(self, sql: str, values: Sequence[Any] | Mapping[str, Any] = ()) -> list[Any] | None:
        """Returns all rows, or None after an error. The caller then uses the driver, which waits
        for locks and raises errors."""
        try:
            if self._connection is None:
                self._connection = sqlite3.connect(self._path, timeout=0, isolation_level=None)
                self._connection.execute("PRAGMA query_only=ON")
            return self._connection.execute(sql, values).fetchall()
        except sqlite3.Error:
            return None

    def close(self) -> None:
        if self._connection:
            self._connection.close()
            self._connection = None


class _Cursor(aiosqlite.Cursor):
    """Fetches all rows when it executes the statement, so there is nothing to close."""

    def __init__(self, connection: "_Connection") -> None:
        self._connection: _Connection = connection
        self._rows: list[Any] = []

    async def execute(self, sql: str, parameters: Iterable[Any] | None = None) -> "_Cursor":
        values = tuple(parameters or ())
        return await self._run(lambda driver: driver.execute(sql, values))

    async def executemany(self, sql: str, parameters: Iterable[Iterable[Any]]) -> "_Cursor":
        rows = [tuple(row) for row in parameters]
        return await self._run(lambda driver: driver.executemany(sql, rows))

    async def fetchall(self) -> list[Any]:
        return self._rows

    async def close(self) -> None:
        pass

    async def _run(self, statement: Callable[[sqlite3.Connection], sqlite3.Cursor]) -> "_Cursor":
        self._cursor, self._rows = await self._connection.run(statement)
        return self


class _Connection(aiosqlite.Connection):
    opened_at: float  # connector.py sets it
    stopped: "asyncio.Future[Any]"

    def stop(self) -> "asyncio.Future[Any] | None":
        future = super().stop()
        assert future
        self.stopped = future
        return future

    # Both read `in_transaction` outside the driver's thread. That is safe because no statement is
    # in progress: a task that stops waiting for its statement discards the connection.
    async def commit(self) -> None:
        if self.in_transaction:
            await super().commit()

    async def rollback(self) -> None:
        if self.in_transaction:
            await super().rollback()

    def cursor(self) -> Any:
        return _Cursor(self)

    # Named as in asyncpg, so that fast_queries.py can use either driver.
    def is_closed(self) -> bool:
        return False  # there is no server that could close it

    async def fetch(self, sql: str, *values: Any) -> list[Any]:
        _, rows = await self.run(lambda driver: driver.execute(sql, values))
        return rows

    async def run(
        self, statement: Callable[[sqlite3.Connection], sqlite3.Cursor]
    ) -> tuple[sqlite3.Cursor, list[Any]]:
        """Execute a statement in the driver's thread. Returns its cursor and all rows."""

        def fetch() -> tuple[sqlite3.Cursor, list[Any]]:
            cursor = statement(self._conn)
            return cursor, cursor.fetchall()

        done: tuple[sqlite3.Cursor, list[Any]] = await self._execute(fetch)  # type: ignore[no-untyped-call]  # aiosqlite does not annotate _execute()
        return done
