"""Checks that the database has the schema of this version, and migrates it.

Alembic is imported only where it is needed: a process that finds the schema at HEAD never pays
for it.
"""

import asyncio
import re
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine

from app.database import outages
from app.database.engine import create_engine
from app.database.version_table import (
    VERSION_TABLE,
    SchemaError,
    foreign_tables_error,
    read_revision,
)
from app.settings import ROOT, Settings

if TYPE_CHECKING:
    from alembic.config import Config

# The newest revision in alembic/versions, which tests/database/test_migrations.py compares.
HEAD = "0020"


def _find_scripts() -> Path:
    """The wheel has them in this package, a checkout beside app/."""
    installed = Path(str(resources.files("app.database") / "alembic"))
    return installed if installed.is_dir() else ROOT / "alembic"


SCRIPTS = _find_scripts()

# The error of PostgreSQL and SQLite for a table, index or function that exists already.
_EXISTING = re.compile(r'\w+ "?(\w+)"? already exists')


async def check(engine: AsyncEngine) -> None:
    """Raise SchemaError unless the database is at HEAD."""
    _require_head(await find_revision(engine))


async def create_or_check(engine: AsyncEngine, settings: Settings) -> None:
    """Create the tables of HEAD if there are none. Raise SchemaError if they are others."""
    found = await find_revision(engine)
    if found is None:
        await asyncio.to_thread(upgrade, settings)  # Alembic runs an event loop of its own
    else:
        _require_head(found)


def _require_head(found: str | None) -> None:
    if found == HEAD:
        return
    if found is None:
        raise SchemaError("The database has no tables yet. Run `hourpass migrate`.")
    if is_known(found):
        raise SchemaError(
            f"The database is behind this version (at {found}, needs {HEAD}). "
            "Run `hourpass migrate`."
        )
    raise _ahead(found)


def upgrade(settings: Settings) -> None:
    """Bring the database to HEAD. Safe when several processes do it at once.

    Raises SchemaError when it cannot be reached or is ahead of this version.
    """
    found = asyncio.run(_configured_revision(settings))
    if found == HEAD:
        return
    if found is not None and not is_known(found):
        raise _ahead(found)
    from alembic import command

    try:
        command.upgrade(alembic_config(settings), "head")
    except DBAPIError as error:
        if existing := _EXISTING.search(str(error.orig)):
            raise foreign_tables_error(settings.database_url, [existing[1]]) from error
        if not outages.is_outage(error):
            raise
        raise SchemaError(_migration_problem(error)) from error


def alembic_config(settings: Settings) -> "Config":
    from alembic.config import Config

    config = Config(attributes={"settings": settings})
    config.set_main_option("script_location", str(SCRIPTS).replace("%", "%%"))
    return config


async def _configured_revision(settings: Settings) -> str | None:
    engine = create_engine(settings)
    try:
        return await find_revision(engine)
    finally:
        await engine.dispose()


async def find_revision(engine: AsyncEngine) -> str | None:
    """The revision of the tables, or None if there are none. Raises SchemaError."""
    try:
        async with engine.connect() as connection:
            return await connection.run_sync(read_revision)
    except SchemaError:
        raise
    except Exception as error:  # each driver has its own, and some quote the password
        problem = outages.describe(error, [VERSION_TABLE])
        raise SchemaError(f"The database cannot be used: {problem}.") from error


def _migration_problem(error: DBAPIError) -> str:
    if outages.is_permission_error(error):
        return (
            "The database cannot be migrated: the role may not create or change tables. As an "
            "administrator of the database, run: GRANT CREATE ON SCHEMA public TO the role of "
            "DATABASE_URL, which has to own existing tables."
        )
    return f"The database cannot be migrated: {outages.describe(error)}."


def is_known(revision: str) -> bool:
    """Whether this version can migrate from there."""
    return any((SCRIPTS / "versions").glob(f"{revision}_*.py"))


def _ahead(found: str) -> SchemaError:
    return SchemaError(
        f"The database is ahead of this version (at {found}, which is unknown here). "
        "Start the version that migrated it, or a newer one."
    )
