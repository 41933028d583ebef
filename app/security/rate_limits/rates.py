"""How often a user may do what is allowed, but would grow something shared without end.

A `Rule` (service.py) is for guesses: each delay is twice the one before. A `Rate` is for honest
use: so many at once and then one per interval, so a client waits no longer than it has to.
"""

from datetime import datetime
from math import ceil

from sqlalchemy import update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncSession

from app.security.rate_limits.errors import TooManyAttemptsError
from app.security.rate_limits.limits import Rate
from app.security.rate_limits.models import Attempts

IS_RATE = -1  # in `failures` of a row that belongs to a rate


async def take(session: AsyncSession, key: str, rate: Rate, now: datetime) -> None:
    """Count one, at `now` by the database's clock. Part of its caller's transaction, which writes.

    Raises TooManyAttemptsError, which says when the next one is allowed.
    """
    allowed_at = await _lock(session, key, rate, now)
    refuse_before(allowed_at, now)
    await _move(session, key, rate, rate.after(allowed_at, now))


async def charge(session: AsyncSession, key: str, rate: Rate, now: datetime, times: int) -> None:
    """Count what was let through already. Part of its caller's transaction, which writes."""
    allowed_at = await _lock(session, key, rate, now)
    await _move(session, key, rate, rate.after(allowed_at, now, times))


def refuse_before(allowed_at: datetime, now: datetime) -> None:
    """Raises TooManyAttemptsError."""
    if allowed_at > now:
        raise TooManyAttemptsError(ceil((allowed_at - now).total_seconds()))


async def _lock(session: AsyncSession, key: str, rate: Rate, now: datetime) -> datetime:
    """When the next one is allowed. The row is made if there is none, so that of many at once each
    sees what the one before has counted."""
    dialect = sqlite if session.get_bind().dialect.name == "sqlite" else postgresql
    row = {"key": key, "failures": IS_RATE, "blocked_until": now - rate.slack, "expires_at": now}
    statement = (
        dialect.insert(Attempts)
        .values(row)
        .on_conflict_do_update(index_elements=[Attempts.key], set_={"failures": IS_RATE})
        .returning(Attempts.blocked_until)
    )
    allowed_at: datetime = (await session.execute(statement)).scalar_one()
    return allowed_at


async def _move(session: AsyncSession, key: str, rate: Rate, allowed_at: datetime) -> None:
    await session.execute(
        update(Attempts)
        .where(Attempts.key == key)
        .values(blocked_until=allowed_at, expires_at=allowed_at + rate.slack)
        .execution_options(synchronize_session=False)
    )
