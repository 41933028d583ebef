"""PostgreSQL's timelines. A failover begins a new one, which may lack the last writes.

Its sequences may lack them too, and would give out the same ids again. So nothing is inserted on a
new timeline before all sequences have been moved forward. Does nothing on SQLite, or on a server
that does not tell its timeline.
"""

from functools import cache
from typing import Any

from sqlalchemy import String, text
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Mapped, mapped_column

from app.database.base import Base
from app.database.connector import Connector

# How far the sequences are moved. By default, Patroni promotes no standby that lacks more than
# 1 MiB of the log, which has fewer rows than this.
LOST_IDS = 10_000

# The same for a backup, which may lack a day.
IDS_AFTER_BACKUP = 100_000

CONNECTOR = "connector"  # key of a session's `info`

# The server's identifier too: a backup may have been restored on another server. The number is
# hexadecimal with eight digits. A standby has no timeline of its own.
_CURRENT = (
    "CASE WHEN pg_is_in_recovery() THEN NULL ELSE (SELECT system_identifier FROM"
    " pg_control_system()) || '/' || left(pg_walfile_name(pg_current_wal_lsn()), 8) END"
)
# Locks the row only if the timeline is a new one. A role that may use a sequence can take values
# from it, but not set its value.
_MOVE_SEQUENCES = (
    "WITH current AS (SELECT :current AS name),"
    " moved AS (UPDATE server_timeline SET name = current.name FROM current"
    " WHERE server_timeline.name <> current.name RETURNING 1),"
    " sequences AS MATERIALIZED (SELECT unnest(ARRAY[:sequences])::regclass AS name)"
    " SELECT count(nextval(sequences.name)) FROM moved, sequences, generate_series(1, :lost)"
)
_SKIP = (
    "WITH sequences AS MATERIALIZED (SELECT unnest(ARRAY[:sequences])::regclass AS name)"
    " SELECT count(nextval(sequences.name)) FROM sequences, generate_series(1, :number)"
)
# SQLite adds the row of a table with its first id.
_ADD_SQLITE_SEQUENCE = (
    "INSERT INTO sqlite_sequence (name, seq) SELECT :name, 0"
    " WHERE NOT EXISTS (SELECT 1 FROM sqlite_sequence WHERE name = :name)"
)
_SKIP_SQLITE = "UPDATE sqlite_sequence SET seq = seq + :number WHERE name = :name"
# A function is missing, or the role may not use it, or the server does not support it.
_UNTOLD = ("42883", "42501", "0A000")
# The table is missing before its migration. The role may not write to it, or nobody may write.
# Readiness reports these.
_NOT_WRITABLE = ("42P01", "42501", "25006")


class ServerTimeline(Base):
    """One row: the timeline for which the sequences have been moved."""

    __tablename__ = "server_timeline"

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    name: Mapped[str] = mapped_column(String(40))  # empty: none


async def read(driver: Any) -> str | None:
    """The name of the timeline that the server writes, or None if it does not tell."""
    try:
        name: str | None = await driver.fetchval(f"SELECT {_CURRENT}")
    except Exception as error:
        if getattr(error, "sqlstate", None) in _UNTOLD:
            return None
        raise
    return name


def is_older(name: str | None, known: str | None) -> bool:
    """Whether the server has a newer timeline than this one: it is that of a former primary."""
    if name is None or known is None:
        return False
    server, _, number = name.partition("/")
    known_server, _, known_number = known.partition("/")
    return server == known_server and number < known_number


async def enter(driver: Any) -> None:
    """Move the sequences forward unless that has been done on this timeline. Other processes that
    do the same wait until it is committed."""
    try:
        await driver.execute(_move_sequences())
    except Exception as error:
        if getattr(error, "sqlstate", None) not in _NOT_WRITABLE:
            raise


async def require_unused_ids(session: AsyncSession) -> None:
    """Like enter(), but part of the caller's transaction. For ids that must not be given out twice
    even behind a pooler, whose connections last through a failover."""
    connector: Connector = session.info[CONNECTOR]
    if connector.timeline is not None:
        await session.execute(text(_move_sequences()))


async def skip_ids(session: AsyncSession) -> None:
    """Move all sequences forward by IDS_AFTER_BACKUP, on SQLite too. Part of the caller's
    transaction."""
    ids = {"number": IDS_AFTER_BACKUP}
    if session.get_bind().dialect.name != "sqlite":
        await session.execute(text(_SKIP.replace(":sequences", _sequences())), ids)
        return
    for name in _tables():
        for statement in (_ADD_SQLITE_SEQUENCE, _SKIP_SQLITE):
            await session.execute(text(statement), {"name": name, **ids})


@cache
def _move_sequences() -> str:
    statement = _MOVE_SEQUENCES.replace(":current", _CURRENT).replace(":sequences", _sequences())
    return statement.replace(":lost", str(LOST_IDS))


def _sequences() -> str:
    return ", ".join(f"pg_get_serial_sequence('{name}', 'id')" for name in _tables())


def _tables() -> list[str]:
    """Those whose ids are counted."""
    return sorted(
        name
        for name, table in Base.metadata.tables.items()
        if any(column.identity is not None for column in table.columns)
    )
