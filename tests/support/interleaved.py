"""Runs two transactions on PostgreSQL. The first one stops between two of its statements until the
second one has ended or waits. Nothing is committed, so each pair finds the same rows.
"""

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Any

import asyncpg
from sqlalchemy import event
from sqlalchemy.engine import Connection, Dialect
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.util import await_only

from app.database.base import Base
from app.database.engine import Database
from app.settings import Settings
from tests.support.settings import Clock

Transaction = Callable[[], Awaitable[object]]

_SECONDS = 60
_STATEMENT_SECONDS = 0.005  # one that lasts longer may wait for a lock
_DEADLOCK_TIMEOUT = "options=-cdeadlock_timeout%3D10ms"  # after which the server looks for one
_LOCKING = re.compile(
    r"(?P<verb>INSERT INTO|UPDATE|DELETE FROM)\s+(?P<written>\w+)"
    r"|SELECT\s.*?\sFROM\s+(?:\(SELECT\s.*?\sFROM\s+)?(?P<read>\w+)\s.*\sFOR (NO KEY )?UPDATE",
    re.DOTALL,
)
_IS_BLOCKED = (
    "SELECT count(*) > 0 FROM pg_stat_activity"
    " WHERE datname = current_database() AND wait_event_type = 'Lock'"
)
_ONLY_APPENDED = {"audit_log", "revocations"}  # nobody waits for a row of these


@dataclass
class Locks:
    """What the statements of one transaction lock: for each, the tables of rows that others may
    have locked."""

    tables: list[frozenset[str]] = field(default_factory=list)
    written: set[str] = field(default_factory=set)
    begins_with_user: bool = False

    def add(self, verb: str | None, table: str, *, is_upsert: bool) -> bool:
        """Whether the statement locks any."""
        if table in _ONLY_APPENDED:
            return False
        if verb is None and table == "users" and not self.tables:
            self.begins_with_user = True
        locked = {table}
        if verb == "INSERT INTO":
            locked = {*_parents(table), *([table] if is_upsert else [])}
        elif verb == "DELETE FROM":
            locked = _deleted_with(table)
        elif verb and table in self.written:
            locked |= _parents(table)  # PostgreSQL checks the foreign keys of a row that is ours
        if verb:
            self.written.add(table)
        if locked:
            self.tables.append(frozenset(locked))
        return bool(locked)

    def may_wait_for(self, other: "Locks", number: int, *, in_one_statement: bool) -> bool:
        """Whether the statement may wait for the other transaction while that one waits for this
        one: it locks rows of two tables in the opposite order, or with one statement."""
        if self.begins_with_user and other.begins_with_user:
            return False  # the second one waits at the row of the user, before it has other locks
        held, wanted = frozenset().union(*self.tables[:number]), self.tables[number]
        return any(
            (held - {table}) & second
            for index, first in enumerate(other.tables)
            for second in (other.tables[index:] if not in_one_statement else [first])
            for table in wanted & first
        )


class Steps:
    """The statements of a caller that lock rows."""

    def __init__(self, stop_at: int | None = None) -> None:
        """`stop_at` is the index of a statement."""
        self.transactions = [Locks()]
        self.number = 0
        self.executed = 0  # statements of all kinds
        self.has_stopped = asyncio.Event()
        self.may_go_on = asyncio.Event()
        self._stop_at = stop_at

    def note(self, statement: str) -> None:
        self.executed += 1
        match = _LOCKING.match(statement)
        if match is None:
            return
        table = match["written"] or match["read"]
        is_upsert = "ON CONFLICT" in match.string
        if self.transactions[-1].add(match["verb"], table, is_upsert=is_upsert):
            self.number += 1
            if self.number - 1 == self._stop_at:
                self.has_stopped.set()
                await_only(self.may_go_on.wait())

    def stops_for(self, other: "Steps", *, in_one_statement: bool = False) -> list[list[int]]:
        """The statements before which the other caller can cause a deadlock, by transaction.
        `in_one_statement`: only with a single statement, before which the other caller cannot stop.
        Other deadlocks are also found if the two callers change places."""
        found, begin = [], 0
        for locks in self.transactions:
            found.append(
                [
                    begin + number
                    for number in range(1, len(locks.tables))
                    if any(
                        locks.may_wait_for(one, number, in_one_statement=in_one_statement)
                        for one in other.transactions
                    )
                ]
            )
            begin += len(locks.tables)
        return [stops for stops in found if stops]


def _parents(table: str) -> set[str]:
    """Whose rows those of the table refer to."""
    return {key.column.table.name for key in Base.metadata.tables[table].foreign_keys}


def _deleted_with(table: str) -> set[str]:
    children = [name for name in Base.metadata.tables if table in _parents(name)]
    return {table}.union(*map(_deleted_with, children))


_steps: ContextVar[Steps | None] = ContextVar("_steps", default=None)


class Wait(Enum):
    """When the second transaction waited for the first one."""

    NEVER = auto()
    FIRST_LOCK = auto()
    LATER_LOCK = auto()


class Interleaver:
    def __init__(self, database: Database, observer: "asyncpg.Connection[Any]") -> None:
        self.database = database
        self._observer = observer

    async def alone(self, transaction: Transaction) -> Steps:
        steps = Steps()
        await asyncio.wait_for(asyncio.create_task(_run(transaction, steps)), _SECONDS)
        return steps

    async def find_deadlock(
        self, first: Transaction, second: Transaction, stops: list[int]
    ) -> str | None:
        """Let `first` stop before each of these statements of one transaction. Returns a
        description of the first deadlock.

        The last one comes first: if `second` does not wait while `first` has all its locks, it
        never waits.
        """
        *earlier, last = stops
        for stop in (last, *earlier):
            try:
                wait = await self.together(first, second, stop)
            except ExceptionGroup as errors:
                return f"before its statement {stop}: {errors.exceptions}"
            if wait is Wait.NEVER and stop == last:
                break
            if wait is Wait.FIRST_LOCK and stop != last:
                break  # and so it would with the later statements
        return None

    async def together(self, first: Transaction, second: Transaction, stop_at: int) -> Wait:
        """Run `first` up to that statement, then `second` until it ends or waits, then the rest.

        Raises an ExceptionGroup with the error of either one, such as that of a deadlock.
        """
        stopping, steps = Steps(stop_at), Steps()
        async with asyncio.timeout(_SECONDS), asyncio.TaskGroup() as tasks:
            tasks.create_task(_run(first, stopping))
            await stopping.has_stopped.wait()
            other = tasks.create_task(_run(second, steps))
            executed = -1
            while not other.done():
                # The server is asked only if no statement was executed for a while.
                if executed == steps.executed and await self._observer.fetchval(_IS_BLOCKED):
                    break
                executed = steps.executed
                await asyncio.wait([other], timeout=_STATEMENT_SECONDS)
            wait = Wait.FIRST_LOCK if steps.number == 1 else Wait.LATER_LOCK
            if other.done():
                wait = Wait.NEVER
            stopping.may_go_on.set()
        return wait


@asynccontextmanager
async def interleaver(settings: Settings, clock: Clock) -> AsyncIterator[Interleaver]:
    url = f"{settings.database_url}&{_DEADLOCK_TIMEOUT}"
    database = Database(settings.model_copy(update={"database_url": url}), clock)
    engine = database.engine.sync_engine
    event.listen(engine, "before_cursor_execute", _note)
    engine.dialect.do_commit = _roll_back_with(engine.dialect)  # type: ignore[method-assign,assignment]
    observer = await asyncpg.connect(settings.database_url.replace("+asyncpg", ""))
    try:
        yield Interleaver(database, observer)
    finally:
        await observer.close()
        await database.close()


def _roll_back_with(dialect: Dialect) -> Callable[[DBAPIConnection], None]:
    def roll_back(connection: DBAPIConnection) -> None:
        dialect.do_rollback(connection)  # type: ignore[arg-type] # as in SQLAlchemy
        if steps := _steps.get():
            steps.transactions.append(Locks())

    return roll_back


async def _run(transaction: Transaction, steps: Steps) -> None:
    _steps.set(steps)
    await transaction()


def _note(_connection: Connection, _cursor: object, statement: str, *_: object) -> None:
    if steps := _steps.get():
        steps.note(statement)
