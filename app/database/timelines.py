"""PostgreSQL's timelines. A failover begins a new one, which may lack the last writes.

Its sequences may lack them too, and would assign the same ids again. So nothing is inserted on a
new timeline before all sequences have been moved forward. Does nothing on SQLite, or on a server
that does not show its timeline.
"""

from typing import Any

from sqlalchemy import String, text
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Mapped, mapped_column

from app.database import sequences
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
# A function of migration 0012. It locks the row only if the timeline is a new one.
_ENTER = "SELECT server_timeline_enter()"
_FORGET = "UPDATE server_timeline SET name = ''"  # the next one skips IDS_AFTER_BACKUP
# Classes of errors that do not come from the query: connections, resources, interventions. Any
# other one means that the server has no such functions, or that the role may not use them.
_OUTAGES = ("08", "53", "57")
# The function is missing before its migration, or nobody may write. Readiness reports these.
_NOT_WRITABLE = ("42883", "25006")


class ServerTimeline(Base):
    """One row: the timeline for which the sequences have been moved."""

    __tablename__ = "server_timeline"

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    name: Mapped[str] = mapped_column(String(40))  # empty: none


async def read(driver: Any) -> str | None:
    """The name of the timeline that the server writes, or None if it does not show it."""
    try:
        name: str | None = await driver.fetchval(f"SELECT {_CURRENT}")
    except Exception as error:
        state: str | None = getattr(error, "sqlstate", None)
        if state is None or state[:2] in _OUTAGES:
            raise
        return None
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
        await driver.execute(_ENTER)
    except Exception as error:
        if getattr(error, "sqlstate", None) not in _NOT_WRITABLE:
            raise


async def require_unused_ids(session: AsyncSession) -> None:
    """Like enter(), but part of the caller's transaction. For ids that must not be assigned twice
    even behind a pooler, whose connections last through a failover."""
    connector: Connector = session.info[CONNECTOR]
    if connector.timeline is not None:
        await session.execute(text(_ENTER))


async def skip_ids(session: AsyncSession) -> None:
    """Move all sequences forward by IDS_AFTER_BACKUP, on SQLite too. Part of the caller's
    transaction."""
    if session.get_bind().dialect.name != "sqlite":
        await session.execute(text(_FORGET))
        await session.execute(text(_ENTER))
        return
    connection = await session.connection()
    for table in sequences.tables_with_identity():
        last = await sequences.last_id(connection, table)
        await sequences.skip_to(connection, table, last + IDS_AFTER_BACKUP)
