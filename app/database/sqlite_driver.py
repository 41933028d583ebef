"""SQLite's driver, with fewer ways to its thread and back: one per statement instead of four, and
none to end a transaction that was never begun. Each way costs more than most statements do.
"""

import sqlite3
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import aiosqlite


async def connect(path: str, busy_timeout: float) -> "_Connection":
    """What SQLAlchemy takes as `async_creator`: a connection whose statements wait `busy_timeout`
    seconds for another's transaction to end.
    """
    connection = _Connection(partial(_open, path, busy_timeout), iter_chunk_size=64)
    connection._thread.daemon = True  # noqa: SLF001 - so does SQLAlchemy: it must not keep us alive
    await connection
    return connection


def _open(path: str, busy_timeout: float) -> sqlite3.Connection:
    # The driver's own BEGIN comes too late; see database.py.
    connection = sqlite3.connect(path, timeout=busy_timeout, isolation_level=None)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=FULL")
    connection.execute("PRAGMA foreign_keys=ON")
    return connection


class Reader:
    """Reads in the event loop itself: a look at a row or two takes a tenth of what the way to the
    driver's thread does. Waits for nobody. The file is opened when it is first asked for."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._connection: sqlite3.Connection | None = None

    def fetch(self, sql: str, values: Sequence[Any] | Mapping[str, Any] = ()) -> list[Any] | None:
        """All rows; None if they have to be asked for in the patient way, which will tell why."""
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
    """Has all rows at hand once a statement is executed. So nothing is left to be closed."""

    def __init__(self, connection: "_Connection") -> None:
        self._connection: _Connection = connection
        self._rows: list[Any] = []

    async def execute(self, sql: str, parameters: Iterable[Any] | None = None) -> "_Cursor":
        values = tuple(parameters or ())
        return await self._do(lambda driver: driver.execute(sql, values))

    async def executemany(self, sql: str, parameters: Iterable[Iterable[Any]]) -> "_Cursor":
        rows = [tuple(row) for row in parameters]
        return await self._do(lambda driver: driver.executemany(sql, rows))

    async def fetchall(self) -> list[Any]:
        return self._rows

    async def close(self) -> None:
        pass

    async def _do(self, statement: Callable[[sqlite3.Connection], sqlite3.Cursor]) -> "_Cursor":
        self._cursor, self._rows = await self._connection.run(statement)
        return self


class _Connection(aiosqlite.Connection):
    # Both may ask without the thread: whoever stops waiting for a statement of its own gives the
    # connection up, so none is under way.
    async def commit(self) -> None:
        if self.in_transaction:
            await super().commit()

    async def rollback(self) -> None:
        if self.in_transaction:
            await super().rollback()

    def cursor(self) -> Any:
        return _Cursor(self)

    # Named as asyncpg's are, so that fast_queries.py need not know which of the two it has.
    def is_closed(self) -> bool:
        return False  # nobody else hangs up

    async def fetch(self, sql: str, *values: Any) -> list[Any]:
        _, rows = await self.run(lambda driver: driver.execute(sql, values))
        return rows

    async def run(
        self, statement: Callable[[sqlite3.Connection], sqlite3.Cursor]
    ) -> tuple[sqlite3.Cursor, list[Any]]:
        """Execute a statement in the thread: its cursor, and all of its rows."""

        def fetch() -> tuple[sqlite3.Cursor, list[Any]]:
            cursor = statement(self._conn)
            return cursor, cursor.fetchall()

        done: tuple[sqlite3.Cursor, list[Any]] = await self._execute(fetch)  # type: ignore[no-untyped-call]  # theirs
        return done
