"""Waiting for a condition, for as long as a slow machine needs: a minute at most."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from sqlalchemy import event, text

if TYPE_CHECKING:  # the tests of the guard import this too
    from app.database.engine import Database

_LONGEST = 60
_BLOCKED = text(
    "SELECT count(*) FROM pg_stat_activity"
    " WHERE datname = current_database() AND wait_event_type = 'Lock'"
)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(_LONGEST):
        while not condition():
            await asyncio.sleep(0.01)


@asynccontextmanager
async def blocking(database: "Database", number: int = 1) -> AsyncIterator[None]:
    """Leave the block once so many statements wait for the transaction that is under way. On SQLite
    each transaction that begins is taken for one of them: no background job may run."""
    engine = database.engine.sync_engine
    if engine.dialect.name != "sqlite":
        yield
        async with asyncio.timeout(_LONGEST), database.session() as session:
            while (await session.scalar(_BLOCKED) or 0) < number:
                await session.rollback()
                await asyncio.sleep(0.01)
        return
    begun: list[str] = []

    def note(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        if statement == "BEGIN IMMEDIATE":  # which waits for its turn in the driver's thread
            begun.append(statement)

    event.listen(engine, "before_cursor_execute", note)
    try:
        yield
        await until(lambda: len(begun) >= number)
    finally:
        event.remove(engine, "before_cursor_execute", note)
