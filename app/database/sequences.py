"""The ids that a database assigns, in sequences on PostgreSQL and in `sqlite_sequence` on SQLite.

No id is assigned twice, even if its row was deleted.
"""

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from app.database.base import Base

_LAST_ID = text(
    "SELECT pg_sequence_last_value(pg_get_serial_sequence(quote_ident(:table), 'id')::regclass)"
)
_SET_LAST_ID = text("SELECT setval(pg_get_serial_sequence(quote_ident(:table), 'id'), :id)")
_LAST_ID_OF_SQLITE = text("SELECT max(seq) FROM sqlite_sequence WHERE name = :table")
# SQLite itself adds the row of a table when it assigns the first id.
_ADD_TO_SQLITE = text(
    "INSERT INTO sqlite_sequence (name, seq) SELECT :table, 0"
    " WHERE NOT EXISTS (SELECT 1 FROM sqlite_sequence WHERE name = :table)"
)
_SET_LAST_ID_OF_SQLITE = text("UPDATE sqlite_sequence SET seq = :id WHERE name = :table")


def tables_with_identity() -> list[str]:
    """The tables whose ids the database assigns. Migrations have the same list."""
    return sorted(
        name
        for name, table in Base.metadata.tables.items()
        if any(column.identity is not None for column in table.columns)
    )


async def last_id(connection: AsyncConnection, table: str) -> int:
    """The highest id that was assigned or skipped, or 0."""
    is_sqlite = connection.dialect.name == "sqlite"
    query = _LAST_ID_OF_SQLITE if is_sqlite else _LAST_ID
    return await connection.scalar(query, {"table": table}) or 0


async def skip_to(connection: AsyncConnection, table: str, id_: int) -> None:
    """Assign no id up to this one any more. Part of the caller's transaction."""
    if id_ <= await last_id(connection, table):
        return
    values = {"table": table, "id": id_}
    if connection.dialect.name == "sqlite":
        await connection.execute(_ADD_TO_SQLITE, {"table": table})
        await connection.execute(_SET_LAST_ID_OF_SQLITE, values)
    else:
        await connection.execute(_SET_LAST_ID, values)
