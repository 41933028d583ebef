"""Two transactions on PostgreSQL, one of which stops between two of its statements, until the other
one has ended or waits for it. Nothing is committed, so every pair finds the same rows.
"""

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from contextvars import ContextVar
from typing import Any

import asyncpg
from sqlalchemy import event
from sqlalchemy.engine import Connection
from sqlalchemy.util import await_only

from app.database.base import Base
from app.database.engine import Database
from app.settings import Settings
from tests.support.settings import Clock

Transaction = Callable[[], Awaitable[object]]

DEADLOCK_TIMEOUT = "options=-cdeadlock_timeout%3D10ms"  # of the server: when it looks for one
_SECONDS = 60
_LOCKING = re.compile(
    r"(?:INSERT INTO|UPDATE|DELETE FROM) (?P<written>\w+)|SELECT .* FROM (?P<read>\w+) .*FOR [NU]",
    re.DOTALL,
)
_IS_BLOCKED = (
    "SELECT count(*) > 0 FROM pg_stat_activity"
    " WHERE datname = current_database() AND wait_event_type = 'Lock'"
)
# Nobody locks a row of these that is there already.
_ONLY_APPENDED = {"audit_log", "revocations"}


class Steps:
    """The statements of one transaction that lock rows."""

    def __init__(self, stop_before: int | None = None) -> None:
        """`stop_before` is the number of a statement."""
        self.statements: list[str] = []
        self.tables: list[str] = []
        self.is_blocked = False
        self.has_stopped = asyncio.Event()
        self.may_go_on = asyncio.Event()
        self._stop_before = stop_before

    def note(self, statement: str, table: str) -> None:
        self.statements.append(statement)
        self.tables.append(table)
        if len(self.statements) == self._stop_before:
            self.has_stopped.set()
            await_only(self.may_go_on.wait())

    def locked_tables(self) -> set[str]:
        """With those of the rows that are deleted together, and that new rows refer to."""
        found = set(self.tables) - _ONLY_APPENDED
        for statement, table in zip(self.statements, self.tables, strict=True):
            if statement.startswith("DELETE"):
                found |= _referring(table)
            if statement.startswith("INSERT"):
                keys = Base.metadata.tables[table].foreign_keys
                found |= {key.column.table.name for key in keys}
        return found


def _referring(table: str) -> set[str]:
    found = {
        other.name
        for other in Base.metadata.tables.values()
        if any(key.column.table.name == table for key in other.foreign_keys)
    }
    return found.union(*map(_referring, found))


_steps: ContextVar[Steps | None] = ContextVar("_steps", default=None)


class Interleaver:
    def __init__(self, database: Database, observer: "asyncpg.Connection[Any]") -> None:
        self.database = database
        self._observer = observer
        engine = database.engine.sync_engine
        engine.dialect.do_commit = engine.dialect.do_rollback  # type: ignore[method-assign]
        event.listen(engine, "before_cursor_execute", _note)

    async def alone(self, transaction: Transaction) -> Steps:
        steps = Steps()
        await asyncio.wait_for(_run(transaction, steps), _SECONDS)
        return steps

    async def together(self, first: Transaction, second: Transaction, stop_before: int) -> Steps:
        """Run `first` up to that statement, then `second` until it ends or waits, then the rest.

        Returns the steps of the second one up to there. Raises an ExceptionGroup with the error of
        either one, such as that of a deadlock.
        """
        stopping, steps = Steps(stop_before), Steps()
        async with asyncio.timeout(_SECONDS), asyncio.TaskGroup() as tasks:
            tasks.create_task(_run(first, stopping))
            await stopping.has_stopped.wait()
            other = tasks.create_task(_run(second, steps))
            while not other.done() and not await self._observer.fetchval(_IS_BLOCKED):
                await asyncio.sleep(0)
            before = Steps()
            before.statements, before.is_blocked = steps.statements.copy(), not other.done()
            stopping.may_go_on.set()
        return before


@asynccontextmanager
async def interleaver(settings: Settings, clock: Clock) -> AsyncIterator[Interleaver]:
    url = f"{settings.database_url}&{DEADLOCK_TIMEOUT}"
    database = Database(settings.model_copy(update={"database_url": url}), clock)
    observer = await asyncpg.connect(settings.database_url.replace("+asyncpg", ""))
    yield Interleaver(database, observer)
    await observer.close()
    await database.close()


async def _run(transaction: Transaction, steps: Steps) -> None:
    _steps.set(steps)
    await transaction()


def _note(_connection: Connection, _cursor: object, statement: str, *_: object) -> None:
    steps = _steps.get()
    if steps and (found := _LOCKING.match(statement)):
        steps.note(statement, found["written"] or found["read"])
