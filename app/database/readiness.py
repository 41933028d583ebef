"""Checks that the database can do what the service needs: read and write the current schema."""

import asyncio
import tempfile
from pathlib import Path
from time import monotonic
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from app.database import migrations, outages
from app.database.base import Base
from app.database.engine import Database
from app.errors import StartupError

CHECK_SECONDS = 1.0
# A commit that takes longer, for example because it waits for a standby, is too late for a login.
WRITE_SECONDS = 2.0
_SPACE_BYTES = 64 * 1024  # more than a login writes

_WRITE = "UPDATE server_timeline SET name = name"
_IS_READ_ONLY = text("SELECT current_setting('transaction_read_only') = 'on'")
# Some databases do not let the service change entries of the audit log, so one way of writing is
# enough. The driver knows text[]; it would ask the database for a description of name[], in 15 ms.
_INACCESSIBLE_TABLES = text(
    "SELECT relname FROM pg_class WHERE relname = ANY(CAST(:names AS text[]))"
    " AND relkind IN ('r', 'p') AND pg_table_is_visible(oid)"
    " AND NOT (has_table_privilege(oid, 'SELECT')"
    " AND has_table_privilege(oid, 'INSERT, UPDATE, DELETE'))"
)


class NotWritableError(StartupError):
    """The database can be read at most. The message says why."""


class Readiness:
    """Asks the database at most once in CHECK_SECONDS, however often it is asked."""

    def __init__(self) -> None:
        self._checking = asyncio.Lock()
        self._checked_at = float("-inf")
        self._problem: StartupError | None = None

    async def check(self, database: Database) -> None:
        """Raises SchemaError or NotWritableError."""
        async with self._checking:
            if monotonic() >= self._checked_at + CHECK_SECONDS:
                self._problem = await _find_problem(database)
                self._checked_at = monotonic()
        if self._problem:
            raise self._problem


async def _find_problem(database: Database) -> StartupError | None:
    try:
        await migrations.check(database.engine)
        await check_writable(database)
    except StartupError as error:
        return error
    return None


async def check_writable(database: Database) -> None:
    """Try what the work needs, and write a row that stays as it was. Raises NotWritableError."""
    engine = database.engine
    try:
        if engine.dialect.name == "sqlite":
            async with engine.connect() as connection:
                await connection.execution_options(sqlite_begin="BEGIN IMMEDIATE")
                # Only a write notices that the file is read-only. This one is rolled back.
                await connection.execute(text(_WRITE))
            await asyncio.to_thread(_check_directory, Path(engine.url.database or "").parent)
        else:
            async with engine.connect() as connection:
                await _check_postgres(database, connection)
    except StartupError:
        raise
    except Exception as error:  # each driver has its own
        if outages.loses_connections(error):
            database.connector.discard_all()
        problem = outages.describe(error, Base.metadata.tables)
        raise NotWritableError(f"The database cannot be written: {problem}.") from error


def _check_directory(directory: Path) -> None:
    """SQLite has files beside the database. It notices that the disk is full only when it writes to
    one of them."""
    with tempfile.TemporaryFile(dir=directory, buffering=0) as file:
        file.write(bytes(_SPACE_BYTES))


async def _check_postgres(database: Database, connection: AsyncConnection) -> None:
    if await connection.scalar(_IS_READ_ONLY):
        # The next connection may lead to the new primary.
        database.connector.discard_all()
        raise NotWritableError(
            "The database is read-only: it is a standby, or default_transaction_read_only is on."
        )
    names = list(Base.metadata.tables)
    if tables := (await connection.scalars(_INACCESSIBLE_TABLES, {"names": names})).all():
        raise NotWritableError(
            f"The database cannot be used: {outages.permission_problem(tables)}."
        )
    await connection.rollback()
    driver: Any = (await connection.get_raw_connection()).driver_connection
    try:
        # Committed, because the commit is what waits for a synchronous standby.
        await driver.execute(_WRITE, timeout=WRITE_SECONDS)
    except TimeoutError as error:
        await connection.invalidate()
        raise NotWritableError(
            f"The database has not committed a write within {WRITE_SECONDS:.0f} s. It may wait for "
            "a synchronous standby or a lock."
        ) from error
