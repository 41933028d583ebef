"""Counts failures against a `Limit` (limits.py), in rows that all workers share.

A login without failures uses nothing of this module. Each function is part of the caller's
transaction, except check_and_charge().
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

from sqlalchemy import case, delete, update
from sqlalchemy.ext.asyncio import AsyncSession

from app.database.engine import begin_write
from app.database.upserts import upsert
from app.security.rate_limits.errors import TooManyAttemptsError
from app.security.rate_limits.limits import Limit
from app.security.rate_limits.models import AttemptCounter
from app.security.rate_limits.rates import raise_if_blocked


class StoredCounter(NamedTuple):
    key: str
    failures: int
    blocked_until: datetime
    expires_at: datetime


@dataclass(slots=True)
class FailureCounter:
    key: str
    limit: Limit
    failures: int = 0
    is_charged: bool = False


async def check_and_charge(
    session: AsyncSession,
    counters: list[FailureCounter],
    found: Mapping[str, StoredCounter],
    now: datetime,
) -> None:
    """Check the counters and charge them, in a transaction of its own. Raises
    TooManyAttemptsError."""
    blocked_until, blocking = now, counters[0]
    for counter in counters:
        if row := found.get(counter.key):
            counter.failures = row.failures
            if row.blocked_until > blocked_until:
                blocked_until, blocking = row.blocked_until, counter
    raise_if_blocked(blocked_until, now, blocking.limit)
    await begin_write(session)
    for counter in counters:
        if not await _charge_in_advance(session, counter, now):
            await session.rollback()
            raise TooManyAttemptsError(counter.limit.name)
        counter.is_charged = True
    await session.commit()


async def _charge_in_advance(session: AsyncSession, counter: FailureCounter, now: datetime) -> bool:
    """Count one more failure. False if other attempts in progress have left none for this one."""
    if counter.failures < counter.limit.allowed:
        return await charge(session, counter, now) <= counter.limit.allowed
    delay = counter.limit.delay(counter.failures + 1)
    claimed = await session.scalar(
        update(AttemptCounter)
        .where(AttemptCounter.key == counter.key, AttemptCounter.failures == counter.failures)
        .values(
            failures=counter.failures + 1,
            blocked_until=now + delay,
            expires_at=now + counter.limit.window,
        )
        .returning(AttemptCounter.key)
        .execution_options(synchronize_session=False)
    )
    return claimed is not None


async def charge(session: AsyncSession, counter: FailureCounter, now: datetime) -> int:
    """Returns the new number of failures."""
    failures = await add_failures(session, counter.key, 1, now, now + counter.limit.window)
    if delay := counter.limit.delay(failures):
        await session.execute(
            update(AttemptCounter)
            .where(AttemptCounter.key == counter.key)
            .values(blocked_until=now + delay)
            .execution_options(synchronize_session=False)
        )
    return failures


async def refund_failure(session: AsyncSession, counter: FailureCounter, now: datetime) -> None:
    """Take back what was charged in advance."""
    # Most counters have nothing but this charge.
    only_this = (AttemptCounter.key == counter.key, AttemptCounter.failures == 1)
    deleted = delete(AttemptCounter).where(*only_this).returning(AttemptCounter.key)
    if await session.scalar(deleted):
        return
    await session.execute(
        update(AttemptCounter)
        # Another success may have cleared it meanwhile.
        .where(AttemptCounter.key == counter.key, AttemptCounter.failures > 0)
        .values(failures=AttemptCounter.failures - 1, blocked_until=now)
    )


async def add_failures(
    session: AsyncSession, key: str, failures: int, now: datetime, expires_at: datetime
) -> int:
    """Returns the new number of failures of the key."""
    row = {"key": key, "failures": failures, "blocked_until": now, "expires_at": expires_at}
    total = case(
        (AttemptCounter.expires_at <= now, failures), else_=AttemptCounter.failures + failures
    )
    statement = (
        upsert(session, AttemptCounter)
        .values(row)
        .on_conflict_do_update(
            index_elements=[AttemptCounter.key],
            set_={"failures": total, "expires_at": expires_at},
        )
        .returning(AttemptCounter.failures)
    )
    total_now: int = (await session.execute(statement)).scalar_one()
    return total_now
