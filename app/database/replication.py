"""Warns if a failover could lose acknowledged writes."""

import logging

from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from app.database.engine import Database

# pg_basebackup has a connection of the same kind.
_SETTINGS = text(
    "SELECT (SELECT count(*) FROM pg_stat_replication WHERE state IS DISTINCT FROM 'backup'),"
    " current_setting('synchronous_standby_names'), current_setting('synchronous_commit')"
)
_UNSAFE = ("off", "local")

_log = logging.getLogger("hourpass.database")


async def warn_of_asynchronous_standbys(database: Database) -> None:
    """Does nothing on SQLite, and without standbys."""
    if database.engine.dialect.name == "sqlite":
        return
    try:
        async with database.engine.connect() as connection:
            standbys, names, commit = (await connection.execute(_SETTINGS)).one()
    except DBAPIError:  # some servers do not show this
        return
    if not standbys:
        return
    if not names:
        problem = "synchronous_standby_names is empty"
    elif commit in _UNSAFE:
        problem = f"synchronous_commit is {commit}"
    else:
        return
    _log.warning(
        "The database has standbys, but %s. A failover can lose the last users and revocations. "
        "Replicate synchronously",
        problem,
    )
