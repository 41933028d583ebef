"""Compares the rows of two databases, in batches."""

from collections.abc import AsyncIterator, Sequence
from typing import Any

from sqlalchemy import ColumnElement, select
from sqlalchemy.ext.asyncio import AsyncSession

BATCH_SIZE = 1000


async def changed_keys(
    session: AsyncSession,
    other: AsyncSession,
    key: Any,
    *columns: Any,
    where: ColumnElement[bool] | None = None,
) -> AsyncIterator[list[Any]]:
    """The keys of the rows that the other database lacks, or has with another value in one of the
    columns."""
    query = select(key, *columns).order_by(key).limit(BATCH_SIZE)
    in_other = select(key, *columns)
    if where is not None:
        query, in_other = query.where(where), in_other.where(where)
    rows = (await session.execute(query)).all()
    while rows:
        last = rows[-1][0]
        keys = [row[0] for row in rows]
        same = {tuple(row) for row in await other.execute(in_other.where(key.in_(keys)))}
        if found := [row[0] for row in rows if tuple(row) not in same]:
            yield found
        rows = (await session.execute(query.where(key > last))).all()


def in_batches(values: Sequence[Any]) -> list[Sequence[Any]]:
    return [values[start : start + BATCH_SIZE] for start in range(0, len(values), BATCH_SIZE)]
