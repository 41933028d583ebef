"""Locks of rows and of whole tables."""

from typing import Any, TypeVar

from sqlalchemy import Select, text
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import InstrumentedAttribute

from app.database.base import Base

Query = TypeVar("Query", bound=Select[*tuple[Any, ...]])


def locked_in_order(
    query: Query, primary_key: InstrumentedAttribute[Any], *, key_share: bool = False
) -> Query:
    """Lock the rows of a query in the order of their primary keys, and read their current values.

    All operations do so, so that there is no deadlock. With `key_share`, transactions that insert
    rows with a foreign key to these do not wait.
    """
    query = query.order_by(primary_key).with_for_update(key_share=key_share)
    return query.execution_options(populate_existing=True)


async def lock_tables(session: AsyncSession, *tables: type[Base]) -> None:
    """Let no other transaction write to these tables until this one ends. Others can read them, and
    lock their rows.

    Call it before rows of these tables are locked. On SQLite, begin_write() has locked all tables.
    """
    if session.get_bind().dialect.name != "sqlite":
        names = ", ".join(table.__tablename__ for table in tables)
        await session.execute(text(f"LOCK TABLE {names} IN SHARE ROW EXCLUSIVE MODE"))
