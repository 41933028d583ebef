"""The database to copy from. It is locked against writers until the copy is committed, so that
nothing that a service acknowledges is missing in the copy."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from time import monotonic
from typing import Any

from sqlalchemy import Table, func, select, text
from sqlalchemy.ext.asyncio import AsyncConnection

from app.database import migrations, sequences
from app.database.engine import create_engine
from app.operations.database_copy.errors import CopyError
from app.operations.database_copy.locks import lock_tables, set_no_timeouts
from app.operations.database_copy.tables import copied_tables
from app.settings import Settings

# For connections that are being closed.
SERVICE_STOP_SECONDS = 2.0

_RUNNING = (
    "Another process uses the source, probably a service. What it writes after the copy would be "
    "missing in the target: stop it first. Use --rehearsal for a copy that you will not serve from."
)
# A service with the same DATABASE_URL has the same name.
_OTHERS = text(
    "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
    " AND pid <> pg_backend_pid() AND application_name = current_setting('application_name')"
)


class Source:
    def __init__(self, connection: AsyncConnection) -> None:
        self.connection = connection

    async def count_rows(self) -> int:
        total = 0
        for table in copied_tables():
            query = select(func.count()).select_from(table)
            total += (await self.connection.scalar(query)) or 0
        return total

    async def last_id(self, table: Table) -> int:
        """The highest id that was assigned, skipped or imported."""
        last = await sequences.last_id(self.connection, table.name)
        highest = await self.connection.scalar(select(func.max(table.columns["id"])))
        return max(last, highest or 0)

    async def require_lock(self) -> None:
        """Raises an error if the connection was lost, and the lock with it."""
        await self.connection.execute(text("SELECT 1"))


@asynccontextmanager
async def open_source(settings: Settings, *, is_rehearsal: bool) -> AsyncIterator[Source]:
    """Raises CopyError if a service runs on it, unless this is a rehearsal, and SchemaError if its
    tables are not those of this version."""
    engine = create_engine(settings, limit_statements=False)
    try:
        await migrations.check(engine)
        lock = _lock_sqlite if engine.dialect.name == "sqlite" else _lock_postgres
        async with engine.connect() as connection:
            await lock(connection, is_rehearsal=is_rehearsal)
            yield Source(connection)
            await connection.rollback()
    finally:
        await engine.dispose()


async def _lock_sqlite(connection: AsyncConnection, *, is_rehearsal: bool) -> None:
    driver: Any = (await connection.get_raw_connection()).driver_connection
    await driver.execute(f"PRAGMA busy_timeout={SERVICE_STOP_SECONDS * 1000:.0f}")
    if not is_rehearsal:
        # In this mode, a transaction can begin only if nothing else has the file open, and nothing
        # else can open it until the end.
        await driver.execute("PRAGMA locking_mode=EXCLUSIVE")
    await connection.execution_options(sqlite_begin="BEGIN IMMEDIATE")
    try:
        await connection.begin()
    except Exception as error:
        if is_rehearsal or not _is_busy(error):
            raise
        raise CopyError(_RUNNING) from error


async def _lock_postgres(connection: AsyncConnection, *, is_rehearsal: bool) -> None:
    if not is_rehearsal:
        await _require_no_others(connection)
    # LOCK comes before the first query, which determines what the transaction sees.
    await connection.execution_options(isolation_level="REPEATABLE READ")
    await connection.begin()
    await lock_tables(connection, copied_tables(), "SHARE")
    await set_no_timeouts(connection)


async def _require_no_others(connection: AsyncConnection) -> None:
    deadline = monotonic() + SERVICE_STOP_SECONDS
    while await connection.scalar(_OTHERS):
        if monotonic() > deadline:
            raise CopyError(_RUNNING)
        await connection.rollback()  # the view stays the same within a transaction
        await asyncio.sleep(0.1)
    await connection.rollback()


def _is_busy(error: Exception) -> bool:
    code: int = getattr(getattr(error, "orig", None), "sqlite_errorcode", 0)
    return code & 0xFF == sqlite3.SQLITE_BUSY  # without the details
