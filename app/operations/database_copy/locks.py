"""Locks of PostgreSQL, for a transaction that may take minutes."""

from collections.abc import Iterable

from sqlalchemy import Table, text
from sqlalchemy.ext.asyncio import AsyncConnection

# New writers wait behind this one.
LOCK_SECONDS = 30

# Not every version has all of them.
_NO_TIMEOUTS = text(
    "SELECT set_config(name, '0', true) FROM pg_settings WHERE name IN ('lock_timeout',"
    " 'statement_timeout', 'transaction_timeout', 'idle_in_transaction_session_timeout')"
)


async def lock_tables(connection: AsyncConnection, tables: Iterable[Table], mode: str) -> None:
    """Waits for the transactions that write. Raises an error after LOCK_SECONDS."""
    names = ", ".join(map(connection.dialect.identifier_preparer.format_table, tables))
    await connection.execute(text(f"SET LOCAL lock_timeout = '{LOCK_SECONDS}s'"))
    await connection.execute(text(f"LOCK TABLE {names} IN {mode} MODE"))


async def set_no_timeouts(connection: AsyncConnection) -> None:
    """Until the end of the transaction."""
    await connection.execute(_NO_TIMEOUTS)
