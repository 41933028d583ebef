"""How many guesses are let through, and how soon; and how many logins that succeed (rates.py).

Three counts are kept in the database, so that all workers share them and no restart forgets: one
for each account, one for each address, and one for each account at an address where its owner has
logged in before. There only this last one counts, so nobody else's guesses keep the owner out.
Beyond the free failures of its rule, an attempt is charged before it is made, and each has to wait
twice as long as the one before. Up to then those under way in this process count as failed.

All times are by the database's clock. If each host used its own, one that is hours ahead would lock
users out on the others, and a guesser could go to the host that takes the delays for over.
"""

import hashlib
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import lru_cache
from ipaddress import ip_network
from typing import NamedTuple

from sqlalchemy import ColumnElement, and_, bindparam, case, delete, or_, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncSession

from app.context import RequestContext
from app.database import fast_queries
from app.database.engine import begin_write
from app.errors import UnavailableError
from app.ip_addresses import network_of
from app.security.rate_limits.errors import TooManyAttemptsError
from app.security.rate_limits.limits import ACCOUNT, ACCOUNT_AT_ADDRESS, ADDRESS, Limit, Rate
from app.security.rate_limits.models import Attempts
from app.security.rate_limits.rates import charge, refuse_before, take
from app.settings import Settings

MAX_ROWS = 1_000_000  # of failures, as many of known addresses, and as many of rates
KNOWN_FOR = timedelta(days=90)
# Written down again only when this much is left, so that most logins need not.
KNOWN_AGAIN = timedelta(days=60)


class Found(NamedTuple):
    key: str
    failures: int
    blocked_until: datetime
    expires_at: datetime


# A successful login writes no count of its own: each worker counts in memory, and tells the
# database of each UNWRITTEN successes of an account together.
UNWRITTEN = 20
MAX_TALLIED = 10_000  # accounts in a worker's memory

# Made once: every login asks.
_MOST_KEYS = 5
_FIND = select(Attempts.key, Attempts.failures, Attempts.blocked_until, Attempts.expires_at).where(
    Attempts.key.in_([bindparam(f"key{number}") for number in range(_MOST_KEYS)]),
    Attempts.expires_at > bindparam("now"),
)


@dataclass(slots=True)
class FailureCounter:
    key: str
    limit: Limit
    failures: int = 0
    is_charged: bool = False


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


@dataclass(slots=True)
class Attempt:
    """A login that was let through. At most one of its ends comes, as part of its caller's
    transaction."""

    session: AsyncSession
    counts: list[FailureCounter]
    known_key: str | None  # to remember after a success, if this is due
    login_key: str
    logins: Rate
    tally: Tally
    now: datetime

    @property
    def has_changes(self) -> bool:
        """Whether succeed() has anything to write."""
        return (
            self.known_key is not None
            or self.tally.is_due(self.login_key)
            or any(count.failures for count in self.counts)
        )

    async def fail(self) -> None:
        for count in self.counts:
            if not count.is_charged:
                await _charge(self.session, count, self.now)

    async def succeed(self) -> None:
        for count in self.counts:
            if count.limit is not ADDRESS and count.failures:
                await self.session.execute(delete(Attempts).where(Attempts.key == count.key))
            elif count.is_charged:
                await self._refund(count)
        if self.known_key:
            await _put(self.session, self.known_key, 0, self.now, self.now + KNOWN_FOR)
        await self.count()

    async def count(self) -> None:
        """As one of the account's logins, of which there are so many an hour."""
        logins = self.tally.add(self.login_key)
        # Another one of the account may have made this one due after `has_changes` was asked.
        if logins >= UNWRITTEN and self.session.in_transaction():
            self.tally.forget(self.login_key)
            await charge(self.session, self.login_key, self.logins, self.now, logins)

    async def refund(self) -> None:
        """Neither a success nor a failure: as if it had not been made, so nobody gains by it."""
        for count in self.counts:
            if count.is_charged:
                await self._refund(count)

    async def _refund(self, count: FailureCounter) -> None:
        await self.session.execute(
            update(Attempts)
            .where(Attempts.key == count.key)
            .values(failures=Attempts.failures - 1, blocked_until=self.now)
        )


class LoginLimiter:
    """One per process: it counts what is under way in it. `actions` is how often one user may log
    in, and may revoke an access token."""

    def __init__(self, settings: Settings) -> None:
        self.actions = Rate.hourly(settings.user_actions_per_hour)
        self._under_way: Counter[str] = Counter()
        self._tally = Tally()

    @asynccontextmanager
    async def attempt(self, context: RequestContext, account: str) -> AsyncIterator[Attempt]:
        """A login to the account of that folded name, whether there is one or not.

        Raises TooManyAttemptsError.
        """
        session, network = context.session, network_to_limit(context.ip_address)
        known_key, pair_key = _key("known", account, network), _key("pair", account, network)
        account_key, address_key = _key("account", account), _key("address", network)
        login_key = _key("login", account)
        keys = (pair_key, account_key, address_key)
        with self._under_way_beside(*keys) as others:
            now = await fast_queries.current_time(session)
            found = await _find(session, now, known_key, login_key, *keys)
            logins = found.get(login_key)
            if logins and logins.blocked_until > now:
                refuse_before(logins.blocked_until, now)
            if known := found.get(known_key):
                counts = [FailureCounter(pair_key, ACCOUNT_AT_ADDRESS)]
            else:
                # In this order everywhere, so that no two wait for each other.
                counts = [FailureCounter(account_key, ACCOUNT)]
                if network:
                    counts.append(FailureCounter(address_key, ADDRESS))
            await _admit(session, counts, found, others, now)
            is_due = known is None or known.expires_at - now < KNOWN_AGAIN
            due_key = known_key if is_due else None
            attempt = Attempt(session, counts, due_key, login_key, self.actions, self._tally, now)
            try:
                yield attempt
            except UnavailableError:  # nothing was checked
                await session.rollback()
                if any(count.is_charged for count in counts):
                    await begin_write(session)
                    await attempt.refund()
                    await session.commit()
                raise

    async def count(self, context: RequestContext, what: str, who: str, limit: Limit) -> None:
        """Something that counts whether it succeeds or not; nothing does for `who` is empty.

        Raises TooManyAttemptsError.
        """
        if not who:
            return
        session = context.session
        count = FailureCounter(_key(what, who), limit)
        with self._under_way_beside(count.key) as others:
            now = await fast_queries.current_time(session)
            found = await _find(session, now, count.key)
            await _admit(session, [count], found, others, now)
            await begin_write(session)
            if not count.is_charged:
                await _charge(session, count, now)
            await session.commit()

    @contextmanager
    def _under_way_beside(self, *keys: str) -> Iterator[Mapping[str, int]]:
        """How many are under way already, while this one is. To be asked for before the database
        is: then nobody is missed who is written down and gone in between."""
        others = {key: self._under_way[key] for key in keys}
        self._under_way.update(keys)
        try:
            yield others
        finally:
            for key in keys:
                self._under_way[key] -= 1
                if not self._under_way[key]:
                    del self._under_way[key]


@lru_cache(maxsize=1024)
def network_to_limit(address: str) -> str:
    """The client's network. Empty for this machine itself, which stands for a proxy that
    TRUSTED_PROXIES does not name."""
    network = network_of(address)
    return "" if network and ip_network(network).is_loopback else network


async def allow(session: AsyncSession, what: str, who: str, limit: Limit | Rate) -> None:
    """As LoginLimiter.count(), but part of its caller's transaction, which writes.

    Where the caller locks users or sessions it does so before, and publishes revocations after, so
    that no two transactions wait for each other. Raises TooManyAttemptsError.
    """
    key = _key(what, who)
    now = await fast_queries.current_time(session)
    if isinstance(limit, Rate):
        await take(session, key, limit, now)
        return
    # Locked, so that of many at once each sees what the one before has counted.
    row = await session.scalar(
        select(Attempts)
        .where(Attempts.key == key)
        .with_for_update()
        .execution_options(populate_existing=True)
    )
    if row:
        refuse_before(row.blocked_until, now)
    await _charge(session, FailureCounter(key, limit), now)


async def clear(
    session: AsyncSession, account: str, address: str | None, *, of_all: bool = False
) -> None:
    """Forget what has failed for the account, there as well if an address is given, and with
    `of_all` what others failed at there; and how often the account has logged in. Part of its
    caller's transaction."""
    keys = [_key("account", account)]
    if address is not None:
        network = network_to_limit(address)
        keys += [_key("pair", account, network)]
        keys += [_key("address", network)] if of_all else []
    await session.execute(delete(Attempts).where(Attempts.key.in_(keys)))
    # After the others, as a login does.
    await session.execute(delete(Attempts).where(Attempts.key == _key("login", account)))


async def expired(session: AsyncSession, now: datetime) -> ColumnElement[bool]:
    """A condition for a query: rows that no longer count and, of more than MAX_ROWS, those that
    will be forgotten soonest.

    Known addresses make room for known ones alone: whoever logs in from a million of them, which
    one account and an IPv6 network suffice for, must not have the failures forgotten. Nor must
    a million failures have the rates forgotten.
    """
    conditions = [Attempts.expires_at <= now]
    for kind in (Attempts.failures == 0, Attempts.failures > 0, Attempts.failures < 0):
        latest_first = select(Attempts.expires_at).where(kind).order_by(Attempts.expires_at.desc())
        if last := await session.scalar(latest_first.offset(MAX_ROWS).limit(1)):
            conditions.append(and_(kind, Attempts.expires_at <= last))
    return or_(*conditions)


async def _admit(
    session: AsyncSession,
    counts: list[FailureCounter],
    found: Mapping[str, Found],
    others: Mapping[str, int],
    now: datetime,
) -> None:
    """Charge what has to be paid beforehand. Raises TooManyAttemptsError."""
    blocked_until = now
    for count in counts:
        if row := found.get(count.key):
            count.failures = row.failures
            blocked_until = max(blocked_until, row.blocked_until)
        if count.failures >= count.limit.allowed:
            count.is_charged = True
        elif count.failures + others[count.key] >= count.limit.allowed:
            raise TooManyAttemptsError
    if blocked_until > now:
        refuse_before(blocked_until, now)
    if not any(count.is_charged for count in counts):
        return
    await begin_write(session)
    for count in counts:
        if count.is_charged and not await _claim(session, count, now):
            await session.rollback()
            raise TooManyAttemptsError
    await session.commit()


async def _find(session: AsyncSession, now: datetime, *keys: str) -> dict[str, Found]:
    padded = (*keys, *("" for _ in range(_MOST_KEYS - len(keys))))
    named = {f"key{number}": key for number, key in enumerate(padded)}
    rows = await fast_queries.run(session, _FIND, {**named, "now": now})
    return {row[0]: Found(*row) for row in rows}


async def _claim(session: AsyncSession, count: FailureCounter, now: datetime) -> bool:
    """Charge one failure more, unless somebody else has just done so."""
    delay = count.limit.delay(count.failures + 1)
    claimed = await session.scalar(
        update(Attempts)
        .where(Attempts.key == count.key, Attempts.failures == count.failures)
        .values(
            failures=count.failures + 1,
            blocked_until=now + delay,
            expires_at=now + count.limit.window,
        )
        .returning(Attempts.key)
        .execution_options(synchronize_session=False)
    )
    return claimed is not None


async def _charge(session: AsyncSession, count: FailureCounter, now: datetime) -> None:
    failures = await _put(session, count.key, 1, now, now + count.limit.window)
    if delay := count.limit.delay(failures):
        await session.execute(
            update(Attempts)
            .where(Attempts.key == count.key)
            .values(blocked_until=now + delay)
            .execution_options(synchronize_session=False)
        )


async def _put(
    session: AsyncSession, key: str, failures: int, now: datetime, expires_at: datetime
) -> int:
    """Add the failures to those of the key; returns them all."""
    dialect = sqlite if session.get_bind().dialect.name == "sqlite" else postgresql
    row = {"key": key, "failures": failures, "blocked_until": now, "expires_at": expires_at}
    total = case((Attempts.expires_at <= now, failures), else_=Attempts.failures + failures)
    statement = (
        dialect.insert(Attempts)
        .values(row)
        .on_conflict_do_update(
            index_elements=[Attempts.key],
            set_={"failures": total, "expires_at": expires_at},
        )
        .returning(Attempts.failures)
    )
    total_now: int = (await session.execute(statement)).scalar_one()
    return total_now


def _key(*parts: str) -> str:
    """What is kept of names and addresses: a name that was typed may be a password."""
    return hashlib.sha256("\n".join(parts).encode("utf-8", "surrogatepass")).hexdigest()[:32]
