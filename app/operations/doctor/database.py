"""Whether the database can be reached, has the schema of this version, and can be written."""

from collections.abc import AsyncIterator
from pathlib import Path

from sqlalchemy import text

from app.database.engine import Database, describe_url
from app.database.migrations import HEAD
from app.database.readiness import check_writable
from app.errors import StartupError
from app.operations.doctor.finding import Finding
from app.operations.doctor.system import System
from app.settings import Settings

_OVERFLOW = 2  # connections that a worker opens besides its pool (docs/configuration.md)
_FREE_CONNECTIONS = text(
    "SELECT current_setting('max_connections')::int"
    " - current_setting('superuser_reserved_connections')::int"
)


async def check(system: System) -> AsyncIterator[Finding]:
    settings = system.settings
    path = system.sqlite_path
    if path and _is_missing(path):  # connect() would create it
        problem = f"{path} does not exist. Run `hourpass migrate`, or correct DATABASE_URL."
        yield Finding("database", "error", problem)
        return
    try:
        database = await system.connect()
        name = path or describe_url(settings)
        yield Finding("database", "ok", f"{name} has the schema {HEAD}.")
        await check_writable(database)
        yield Finding("database", "ok", "It can be written.")
    except StartupError as error:
        yield Finding("database", "error", str(error))
        return
    if path is None:
        yield await _check_connections(database, settings)


async def _check_connections(database: Database, settings: Settings) -> Finding:
    needed = settings.workers * (settings.database_pool_size + _OVERFLOW)
    async with database.engine.connect() as connection:
        free = await connection.scalar(_FREE_CONNECTIONS) or 0
    about = f"{settings.workers} workers use up to {needed} connections, and the server has {free}."
    if needed > free:
        remedy = "Lower DATABASE_POOL_SIZE or WORKERS, use a pooler, or raise max_connections."
        return Finding("pool", "warning", f"{about} {remedy}")
    return Finding("pool", "ok", about)


def _is_missing(path: Path) -> bool:
    return not path.exists()
