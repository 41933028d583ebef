"""Migrations to any revision, and the tables that they leave."""

import asyncio
from collections.abc import Callable, Sequence
from datetime import UTC, date, datetime
from typing import TypeVar

from alembic import command
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, MetaData, Table

from app.database import migrations
from app.database.engine import create_engine
from app.database.version_table import VERSION_TABLE
from app.settings import Settings

T = TypeVar("T")

# A value for a column of each type. All numbers are the same, so that references fit.
SAMPLES: dict[type, object] = {
    bool: True,
    int: 7,
    float: 0.5,
    str: "x",
    bytes: b"x",
    datetime: datetime(2026, 11, 23, 12, 0, tzinfo=UTC),
    date: date(2026, 11, 23),
}


def scripts() -> ScriptDirectory:
    return ScriptDirectory.from_config(migrations.alembic_config(Settings()))


def upgrade(settings: Settings, revision: str) -> None:
    command.upgrade(migrations.alembic_config(settings), revision)


def downgrade(settings: Settings, revision: str) -> None:
    command.downgrade(migrations.alembic_config(settings), revision)


def in_database(settings: Settings, work: Callable[[Connection], T]) -> T:
    """Run `work` in one transaction."""

    async def run() -> T:
        engine = create_engine(settings)
        try:
            async with engine.connect() as connection:
                writing = await connection.execution_options(sqlite_begin="BEGIN IMMEDIATE")
                async with writing.begin():
                    return await writing.run_sync(work)
        finally:
            await engine.dispose()

    return asyncio.run(run())


def tables_of(connection: Connection, only: Sequence[str] | None = None) -> list[Table]:
    """The tables of the database, which may differ from the models. Each one comes after those that
    it refers to. `only`: these and the tables that they refer to."""
    found = MetaData()
    found.reflect(connection, only=only)
    return [table for table in found.sorted_tables if table.name != VERSION_TABLE]
