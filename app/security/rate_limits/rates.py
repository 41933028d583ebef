"""Counts legitimate actions against a `Rate` (limits.py). Without it, one user could fill tables
that all users share.
"""

from datetime import datetime
from math import ceil

from sqlalchemy import update
from sqlalchemy.ext.asyncio import AsyncSession

from app.database.upserts import upsert
from app.security.rate_limits.errors import TooManyAttemptsError
from app.security.rate_limits.limits import Limit, Rate
from app.security.rate_limits.models import AttemptCounter

IS_RATE = -1  # `failures` of a row that belongs to a Rate


async def consume(session: AsyncSession, key: str, rate: Rate, now: datetime) -> None:
    """Count one action at `now`, by the database's clock. Part of the caller's writing transaction.

    Raises TooManyAttemptsError, which says when the next action is allowed.
    """
    allowed_at = await _lock(session, key, rate, now)
    raise_if_blocked(allowed_at, now, rate)
    await _update(session, key, rate, rate.after(allowed_at, now))


async def record(session: AsyncSession, key: str, rate: Rate, now: datetime, times: int) -> None:
    """Count actions that were already allowed. Part of the caller's writing transaction."""
    allowed_at = await _lock(session, key, rate, now)
    await _update(session, key, rate, rate.after(allowed_at, now, times))


def raise_if_blocked(allowed_at: datetime, now: datetime, limit: Limit | Rate) -> None:
    """Raises TooManyAttemptsError."""
    if allowed_at > now:
        raise TooManyAttemptsError(limit.name, ceil((allowed_at - now).total_seconds()))


async def _lock(session: AsyncSession, key: str, rate: Rate, now: datetime) -> datetime:
    """When the next action is allowed. Inserts a missing row, so that simultaneous transactions
    wait for each other and each one sees what the previous one has counted."""
    row = {"key": key, "failures": IS_RATE, "blocked_until": now - rate.slack, "expires_at": now}
    statement = (
        upsert(session, AttemptCounter)
        .values(row)
        .on_conflict_do_update(index_elements=[AttemptCounter.key], set_={"failures": IS_RATE})
        .returning(AttemptCounter.blocked_until)
    )
    allowed_at: datetime = (await session.execute(statement)).scalar_one()
    return allowed_at


async def _update(session: AsyncSession, key: str, rate: Rate, allowed_at: datetime) -> None:
    await session.execute(
        update(AttemptCounter)
        .where(AttemptCounter.key == key)
        .values(blocked_until=allowed_at, expires_at=allowed_at + rate.slack)
        .execution_options(synchronize_session=False)
    )
