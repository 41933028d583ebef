"""INSERT statements with ON CONFLICT, which SQLAlchemy has for each database separately."""

from typing import TypeAlias

from sqlalchemy import Table
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncSession

from app.database.base import Base

Insert: TypeAlias = sqlite.Insert | postgresql.Insert


def upsert(session: AsyncSession, table: type[Base] | Table) -> Insert:
    """A statement for the database of the session. Say what to do with `on_conflict_do_update()` or
    `on_conflict_do_nothing()`."""
    dialect = sqlite if session.get_bind().dialect.name == "sqlite" else postgresql
    statement: Insert = dialect.insert(table)
    return statement
