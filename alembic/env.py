"""Runs migrations on the configured database, one process at a time, all or nothing."""

import asyncio

from alembic import context
from sqlalchemy import text
from sqlalchemy.engine import Connection

from app.database import version_table
from app.database.engine import create_engine
from app.settings import Settings
from app.tables import metadata

# Any number, as long as nothing else in the database locks the same one.
_MIGRATION_LOCK = 0x686F7572


def migrate(connection: Connection) -> None:
    # Several hosts may start at once on one empty database. The first in holds the lock until its
    # commit; the others then find nothing left to do, because they read the revision after it.
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _MIGRATION_LOCK})
    version_table.adopt(connection)
    context.configure(
        connection=connection,
        target_metadata=metadata,
        version_table=version_table.VERSION_TABLE,
        render_as_batch=connection.dialect.name == "sqlite",
        transactional_ddl=True,
        compare_type=True,
        # SQLite has no identity columns, and would miss their default.
        compare_server_default=connection.dialect.name != "sqlite",
    )
    with context.begin_transaction():
        context.run_migrations()


async def run() -> None:
    settings = context.config.attributes.get("settings") or Settings()
    engine = create_engine(settings, limit_statements=False)
    try:
        async with engine.connect() as connection:
            writing = await connection.execution_options(sqlite_begin="BEGIN IMMEDIATE")
            async with writing.begin():
                await writing.run_sync(migrate)
    finally:
        await engine.dispose()


asyncio.run(run())
