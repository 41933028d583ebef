"""Reads tables in constant memory, compares them, and names a row without its values."""

from collections.abc import AsyncIterator, Sequence
from hashlib import sha256
from typing import Any

from sqlalchemy import (
    BigInteger,
    Column,
    Dialect,
    Integer,
    Row,
    Select,
    String,
    Table,
    and_,
    literal,
    select,
    tuple_,
)
from sqlalchemy.ext.asyncio import AsyncConnection

from app.database import outages
from app.operations.database_copy.errors import CopyError

PAGE_ROWS = 2_000  # of some kilobytes each at most

Rows = Sequence[Row[Any]]

_MAX_CHECKSUM = 2**256


class Checksum:
    """The number of rows, and the sum of their hashes. It does not depend on the order: each
    database sorts texts in its own way. It finds accidents, not forgeries."""

    def __init__(self) -> None:
        self.rows = 0
        self._sum = 0

    def add(self, rows: Rows) -> None:
        """Of values as SQLAlchemy returns them, which are the same for all databases."""
        self.rows += len(rows)
        for row in rows:
            self._sum += int.from_bytes(sha256(repr(tuple(row)).encode()).digest())

    def hexdigest(self) -> str:
        return f"{self._sum % _MAX_CHECKSUM:064x}"


async def read_pages(connection: AsyncConnection, table: Table) -> AsyncIterator[Rows]:
    """All rows, in the order of the primary key. Raises CopyError for a row with a value that is
    not of its column's type."""
    keys = list(table.primary_key.columns)
    positions = [list(table.columns).index(key) for key in keys]
    in_order = select(table).order_by(*keys).limit(PAGE_ROWS)
    page_query = in_order
    number = 0
    while True:
        try:
            page = (await connection.execute(page_query)).all()
        except Exception as error:
            if outages.is_outage(error):
                raise
            await _explain_unreadable(connection, table, page_query, number)
            raise
        if page:
            yield page
        if len(page) < PAGE_ROWS:
            return
        number += len(page)
        last = [page[-1][position] for position in positions]
        page_query = in_order.where(_is_after(keys, last))


def name_row(table: Table, values: Sequence[Any], number: int) -> str:
    """The numbers of its primary key. Other keys may be derived from secrets."""
    names = [key.name for key in table.primary_key.columns]
    if all(isinstance(value, int) for value in values):
        pairs = ", ".join(f"{name} {value}" for name, value in zip(names, values, strict=True))
        return f"the row with {pairs} of the table {table.name}"
    return f"row {number:,} of the table {table.name}, in the order of its primary key"


def find_refused(table: Table, rows: Rows, first_number: int, dialect: Dialect) -> str | None:
    """The first value that the database of this dialect cannot store: which row and column, and
    what is wrong with it. `first_number` is the number of the first row, from 1."""
    columns = list(table.columns)
    positions = [columns.index(key) for key in table.primary_key.columns]
    for number, row in enumerate(rows, start=first_number):
        for column, value in zip(columns, row, strict=True):
            if problem := _problem_of(column, value, dialect):
                key = [row[position] for position in positions]
                return f"{name_row(table, key, number)}, column {column.name}: {problem}"
    return None


def _problem_of(column: Column[Any], value: Any, dialect: Dialect) -> str | None:
    type_ = column.type.dialect_impl(dialect)
    if value is None:
        return None if column.nullable else "it has no value"
    if not isinstance(value, column.type.python_type):
        return f"it has a value of another type, {type(value).__name__}"
    if isinstance(type_, String) and isinstance(value, str):
        if "\0" in value:
            return "it has a NUL character"
        if type_.length is not None and len(value) > type_.length:
            return f"it has {len(value):,} characters, and {type_.length:,} are possible"
    if isinstance(type_, Integer):
        bits = 63 if isinstance(type_, BigInteger) else 31
        if not -(2**bits) <= value < 2**bits:
            return "the number is too large"
    return None


async def _explain_unreadable(
    connection: AsyncConnection, table: Table, page_query: Select[Any], number: int
) -> None:
    """Raises CopyError that names the first row of the page that cannot be read."""
    keys = list(table.primary_key.columns)
    for values in (await connection.execute(page_query.with_only_columns(*keys))).all():
        number += 1
        is_this = and_(*(key == value for key, value in zip(keys, values, strict=True)))
        try:
            (await connection.execute(select(table).where(is_this))).all()
        except Exception as error:
            if outages.is_outage(error):
                raise
            raise CopyError(
                f"Cannot read {name_row(table, values, number)}: a value is not of its column's "
                "type. Correct it in the source, then copy again."
            ) from error


def _is_after(keys: Sequence[Column[Any]], values: Sequence[Any]) -> Any:
    if len(keys) == 1:
        return keys[0] > values[0]
    literals = (literal(value, key.type) for key, value in zip(keys, values, strict=True))
    return tuple_(*keys) > tuple_(*literals)
