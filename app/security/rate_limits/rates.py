"""How often a user may do what is allowed, but would grow something shared without end.

A `Rule` (service.py) is for guesses: each delay is twice the one before. A `Rate` is for honest
use: so many at once and then one per interval, so a client waits no longer than it has to.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from math import ceil

from sqlalchemy import update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncSession

from app.security.rate_limits.errors import TooManyAttemptsError
from app.security.rate_limits.models import Attempts

IS_RATE = -1  # in `failures` of a row that belongs to a rate

# A successful login writes no count of its own: each worker counts in memory, and tells the
# database of each UNWRITTEN successes of an account together.
UNWRITTEN = 20
MAX_TALLIED = 10_000  # accounts in a worker's memory


@dataclass(frozen=True, slots=True)
class Rate:
    """`burst` at once, and one more per `interval`: the generic cell rate algorithm (ITU-T I.371,
    annex A), which keeps one moment per key."""

    burst: int
    interval: timedelta

    @classmethod
    def hourly(cls, number: int) -> "Rate":
        """That many at once, and as many again in each hour."""
        return cls(number, timedelta(hours=1) / number)

    @property
    def slack(self) -> timedelta:
        """How far behind the present the moment of a key stays that nobody has used."""
        return (self.burst - 1) * self.interval

    def after(self, allowed_at: datetime, now: datetime, times: int = 1) -> datetime:
        """When the next one is allowed once `times` of them have been made at `now`."""
        return max(allowed_at, now - self.slack) + times * self.interval


# One session, of which a user has up to 100. Clients renew once an hour, and HourpassAuth twice a
# minute if an API refuses every token.
RENEWAL = Rate(burst=120, interval=timedelta(seconds=15))
# Logins with the right password that stop at the second factor.
UNFINISHED_LOGIN = Rate(burst=60, interval=timedelta(minutes=1))
# Each new secret can be confirmed with five wrong codes, all of which the audit log keeps.
NEW_SECRET = Rate(burst=20, interval=timedelta(minutes=3))
# One administrator.
NEW_INVITATION = Rate(burst=1_000, interval=timedelta(seconds=3.6))
# All addresses together, without those who have an invitation.
REGISTRATIONS = Rate(burst=3_600, interval=timedelta(seconds=1))


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


class Tally:
    """What one worker has let through and not told the database yet."""

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}

    def is_due(self, key: str) -> bool:
        """Whether the next one has to be written down."""
        return self._counts.get(key, 0) + 1 >= UNWRITTEN

    def add(self, key: str) -> int:
        """Returns how many there are now."""
        if key not in self._counts and len(self._counts) >= MAX_TALLIED:
            del self._counts[next(iter(self._counts))]
        self._counts[key] = self._counts.get(key, 0) + 1
        return self._counts[key]

    def forget(self, key: str) -> None:
        self._counts.pop(key, None)
