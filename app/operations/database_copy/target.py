"""The database to copy to. Everything is one transaction: after a failure, it is still empty."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from sqlalchemy import Table, delete, insert, literal, select, text
from sqlalchemy.ext.asyncio import AsyncConnection

from app.database import migrations, outages
from app.database.engine import create_engine
from app.database.version_table import read_revision
from app.operations.database_copy.errors import CopyError
from app.operations.database_copy.locks import lock_tables, set_no_timeouts
from app.operations.database_copy.rows import Checksum, Rows, find_refused, read_pages
from app.operations.database_copy.tables import IS_USED, copied_tables
from app.settings import Settings

_CACHE_KIB = 65_536  # SQLite's own 2 MiB are too few for the indexes of a million users


class Target:
    def __init__(self, connection: AsyncConnection) -> None:
        self.connection = connection

    async def write(self, table: Table, rows: Rows, first_number: int) -> None:
        """Raises CopyError that names the first row that the target cannot store."""
        try:
            if self.connection.dialect.name == "sqlite":
                values = [dict(row._mapping) for row in rows]  # noqa: SLF001 - a public name of SQLAlchemy
                await self.connection.execute(insert(table), values)
            else:
                await self._copy_to_postgres(table, rows)
        except Exception as error:
            if outages.is_outage(error):
                raise
            raise CopyError(self._explain(table, rows, first_number)) from error

    async def read_checksums(self, table: Table) -> AsyncIterator[Checksum]:
        """After each page, up to and including it."""
        checksum = Checksum()
        yield checksum
        async for page in read_pages(self.connection, table):
            checksum.add(page)
            yield checksum

    async def analyze(self) -> None:
        """So that PostgreSQL plans its first queries as well as later ones."""
        if self.connection.dialect.name == "postgresql":
            format_table = self.connection.dialect.identifier_preparer.format_table
            names = ", ".join(map(format_table, copied_tables()))
            await self.connection.execute(text(f"ANALYZE {names}"))

    async def _copy_to_postgres(self, table: Table, rows: Rows) -> None:
        dialect = self.connection.dialect
        processors = [
            column.type.dialect_impl(dialect).bind_processor(dialect) for column in table.columns
        ]
        records = [
            [process(value) if process else value for process, value in zip(processors, row)]  # noqa: B905 - as many values as columns
            for row in rows
        ]
        names = [column.name for column in table.columns]
        driver: Any = (await self.connection.get_raw_connection()).driver_connection
        await driver.copy_records_to_table(table.name, records=records, columns=names)

    def _explain(self, table: Table, rows: Rows, first_number: int) -> str:
        refused = find_refused(table, rows, first_number, self.connection.dialect)
        if refused is None:
            last = first_number + len(rows) - 1
            refused = (
                f"one of the rows {first_number:,} to {last:,} of the table {table.name}, in the "
                "order of its primary key: it may refer to a row that is missing"
            )
        return f"The target cannot store {refused}. Correct it in the source, then copy again."


@asynccontextmanager
async def open_target(settings: Settings) -> AsyncIterator[Target]:
    """Migrates the database if it has no tables yet, and commits if all went well.

    Raises CopyError if it is not empty, and SchemaError if it cannot be migrated.
    """
    engine = create_engine(settings, limit_statements=False)
    try:
        async with engine.connect() as connection:
            revision = await connection.run_sync(read_revision)
            if revision == migrations.HEAD:
                await _require_empty(connection)  # before waiting for the locks of a service there
            elif revision is not None:
                raise _not_empty("the tables of another version of Hourpass")
        if revision is None:
            await asyncio.to_thread(migrations.upgrade, settings)
        async with engine.connect() as connection:
            await _begin(connection)
            await _require_empty(connection)
            for name in IS_USED:
                await connection.execute(delete(_table(name)))
            yield Target(connection)
            await connection.commit()
    finally:
        await engine.dispose()


async def _begin(connection: AsyncConnection) -> None:
    if connection.dialect.name == "sqlite":
        driver: Any = (await connection.get_raw_connection()).driver_connection
        await driver.execute(f"PRAGMA cache_size=-{_CACHE_KIB}")
        await connection.execution_options(sqlite_begin="BEGIN IMMEDIATE")
        await connection.begin()
        return
    await connection.begin()
    await lock_tables(connection, copied_tables(), "SHARE ROW EXCLUSIVE")
    await set_no_timeouts(connection)


async def _require_empty(connection: AsyncConnection) -> None:
    for table in copied_tables():
        query = select(literal(1)).select_from(table).limit(1)
        if table.name in IS_USED:
            query = query.where(IS_USED[table.name])
        if await connection.scalar(query):
            raise _not_empty(f"rows in the table {table.name}")


def _not_empty(found: str) -> CopyError:
    return CopyError(
        f"The target is not empty: it has {found}. Nothing was changed. Name an empty database. If "
        "a service was started on it by accident, delete that database and create it again."
    )


def _table(name: str) -> Table:
    return next(table for table in copied_tables() if table.name == name)
