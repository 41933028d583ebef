"""Limits login attempts: failed ones by a Limit, successful ones by a Rate (rates.py).

The database has three kinds of failure counters, so that all workers share them and they survive a
restart: per account, per IP address, and per pair of an account and an IP address from which its
owner has logged in before. For such a known pair, only the pair's own counter matters, so nobody
else's guesses can lock the owner out.

Each attempt is charged as a failure before the password is checked, and refunded if it succeeds.
So all workers together check no more passwords than the limits allow. Only a login at a known
address without failures is not charged, if it is the only one in progress in this process. That is
nearly every login, and it writes nothing before the password is checked.

All times are by the database's clock. If each host used its own, a host that is hours ahead would
lock users out on the others, and an attacker could use the host on which the delays are over.
"""

import hashlib
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import lru_cache
from ipaddress import ip_network
from typing import NamedTuple

from sqlalchemy import ColumnElement, and_, bindparam, delete, or_, select
from sqlalchemy.ext.asyncio import AsyncSession

from app.context import RequestContext
from app.database import fast_queries
from app.database.engine import begin_write
from app.errors import UnavailableError
from app.ip_addresses import network_of
from app.security.rate_limits.failures import (
    FailureCounter,
    StoredCounter,
    add_failures,
    charge,
    check_and_charge,
    refund_failure,
)
from app.security.rate_limits.limits import ACCOUNT, ACCOUNT_AT_ADDRESS, ADDRESS, Limit, Rate
from app.security.rate_limits.models import AttemptCounter
from app.security.rate_limits.rates import consume, raise_if_blocked, record
from app.settings import Settings

MAX_ROWS = 1_000_000  # of each kind: failures, known addresses, rates
KNOWN_FOR = timedelta(days=90)
# A known address is renewed only when less than this is left, so that most logins write nothing.
RENEW_KNOWN_BELOW = timedelta(days=60)


# A constant, because every login runs it.
_MAX_KEYS = 5
_SELECT = select(
    AttemptCounter.key,
    AttemptCounter.failures,
    AttemptCounter.blocked_until,
    AttemptCounter.expires_at,
).where(
    AttemptCounter.key.in_([bindparam(f"key{number}") for number in range(_MAX_KEYS)]),
    AttemptCounter.expires_at > bindparam("now"),
)

# Workers count successful logins in memory, and write each LOGINS_PER_WRITE of an account to the
# database together.
LOGINS_PER_WRITE = 20
MAX_UNWRITTEN_ACCOUNTS = 10_000


class UnwrittenLogins:
    """Successful logins that one worker has not written to the database yet."""

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}

    def is_due(self, key: str) -> bool:
        """Whether the next login has to be written to the database."""
        return self._counts.get(key, 0) + 1 >= LOGINS_PER_WRITE

    def add(self, key: str) -> int:
        """Returns the new number."""
        if key not in self._counts and len(self._counts) >= MAX_UNWRITTEN_ACCOUNTS:
            del self._counts[next(iter(self._counts))]
        self._counts[key] = self._counts.get(key, 0) + 1
        return self._counts[key]

    def forget(self, key: str) -> None:
        self._counts.pop(key, None)


@dataclass(slots=True)
class Attempt:
    """A login attempt that is allowed to check the password. The caller reports the result with at
    most one of fail(), succeed() and refund(), in its own transaction."""

    session: AsyncSession
    counters: list[FailureCounter]
    is_known: bool  # whether the account has logged in there within KNOWN_FOR
    known_key: str | None  # to write after a success; None if it need not be renewed yet
    login_key: str
    logins: Rate
    unwritten: UnwrittenLogins
    now: datetime

    @property
    def has_changes(self) -> bool:
        """Whether succeed() has anything to write."""
        return (
            self.known_key is not None
            or self.unwritten.is_due(self.login_key)
            or any(counter.failures or counter.is_charged for counter in self.counters)
        )

    async def fail(self) -> None:
        for counter in self.counters:
            if not counter.is_charged:
                await charge(self.session, counter, self.now)

    async def succeed(self) -> None:
        for counter in self.counters:
            if counter.limit is not ADDRESS and (counter.failures or counter.is_charged):
                await self.session.execute(
                    delete(AttemptCounter).where(AttemptCounter.key == counter.key)
                )
            elif counter.is_charged:
                await refund_failure(self.session, counter, self.now)
        if self.known_key:
            await add_failures(self.session, self.known_key, 0, self.now, self.now + KNOWN_FOR)
        await self.count_login()

    async def count_login(self) -> None:
        """Count it towards the account's logins per hour."""
        logins = self.unwritten.add(self.login_key)
        # A simultaneous login may have made the write due after `has_changes` was read. Then there
        # is no transaction to write in, and a later login writes.
        if logins >= LOGINS_PER_WRITE and self.session.in_transaction():
            self.unwritten.forget(self.login_key)
            await record(self.session, self.login_key, self.logins, self.now, logins)

    async def refund(self) -> None:
        """Neither a success nor a failure: take back what was charged in advance."""
        for counter in self.counters:
            if counter.is_charged:
                await refund_failure(self.session, counter, self.now)


class LoginLimiter:
    """One per process, because it counts the attempts in progress at known addresses there.
    `actions` is the rate of logins of one user, and of that user's revoked access tokens."""

    def __init__(self, settings: Settings) -> None:
        self.actions = Rate.hourly(settings.user_actions_per_hour, "user_actions")
        self._in_progress: Counter[str] = Counter()
        self._unwritten = UnwrittenLogins()

    @asynccontextmanager
    async def attempt(self, context: RequestContext, account: str) -> AsyncIterator[Attempt]:
        """A login attempt for a normalized username, whether or not such an account exists.

        Raises TooManyAttemptsError.
        """
        session, network = context.session, network_to_limit(context.ip_address)
        account_key, pair_key, known_key, login_key = _account_keys(account, network)
        address_key = _key("address", network)
        keys = (pair_key, account_key, address_key)
        with self._count_concurrent(pair_key) as others:
            now = await fast_queries.current_time(session)
            found = await _read(session, now, known_key, login_key, *keys)
            logins = found.get(login_key)
            if logins and logins.blocked_until > now:
                raise_if_blocked(logins.blocked_until, now, self.actions)
            if known := found.get(known_key):
                counters = [FailureCounter(pair_key, ACCOUNT_AT_ADDRESS)]
                has_failures = pair_key in found and found[pair_key].failures > 0
                is_charged = has_failures or others > 0
            else:
                is_charged = True
                # The order is the same everywhere, so that there is no deadlock.
                counters = [FailureCounter(account_key, ACCOUNT)]
                if network:
                    counters.append(FailureCounter(address_key, ADDRESS))
            if is_charged:
                await check_and_charge(session, counters, found, now)
            is_due = known is None or known.expires_at - now < RENEW_KNOWN_BELOW
            due_key = known_key if is_due else None
            attempt = Attempt(
                session,
                counters,
                known is not None,
                due_key,
                login_key,
                self.actions,
                self._unwritten,
                now,
            )
            try:
                yield attempt
            except UnavailableError:  # the password was not checked
                await session.rollback()
                if any(counter.is_charged for counter in counters):
                    await begin_write(session)
                    await attempt.refund()
                    await session.commit()
                raise

    async def enforce_limit(
        self, context: RequestContext, kind: str, subject: str, limit: Limit
    ) -> None:
        """Count an attempt, whether or not it succeeds, in a transaction of its own. There is no
        limit if `subject` is empty.

        Raises TooManyAttemptsError.
        """
        if not subject:
            return
        session = context.session
        counter = FailureCounter(_key(kind, subject), limit)
        now = await fast_queries.current_time(session)
        found = await _read(session, now, counter.key)
        await check_and_charge(session, [counter], found, now)

    @contextmanager
    def _count_concurrent(self, key: str) -> Iterator[int]:
        """How many other attempts are in progress, while this one is. Call it before reading the
        database: an attempt that ends in between is then counted twice rather than not at all."""
        self._in_progress[key] += 1
        try:
            yield self._in_progress[key] - 1
        finally:
            self._in_progress[key] -= 1
            if not self._in_progress[key]:
                del self._in_progress[key]


@lru_cache(maxsize=1024)
def network_to_limit(ip_address: str) -> str:
    """The client's network. Empty for loopback addresses, since behind a proxy that TRUSTED_PROXIES
    does not name all clients have the proxy's address."""
    network = network_of(ip_address)
    return "" if network and ip_network(network).is_loopback else network


async def enforce_limit(
    session: AsyncSession, kind: str, subject: str, limit: Limit | Rate
) -> None:
    """As LoginLimiter.enforce_limit(), but part of the caller's writing transaction.

    To avoid deadlocks, callers lock users and sessions before this, and publish revocations after
    it. Raises TooManyAttemptsError.
    """
    key = _key(kind, subject)
    now = await fast_queries.current_time(session)
    if isinstance(limit, Rate):
        await consume(session, key, limit, now)
        return
    # Locked, so that each of several simultaneous transactions sees what the previous one counted.
    row = await session.scalar(
        select(AttemptCounter)
        .where(AttemptCounter.key == key)
        .with_for_update()
        .execution_options(populate_existing=True)
    )
    if row:
        raise_if_blocked(row.blocked_until, now, limit)
    await charge(session, FailureCounter(key, limit), now)


async def is_known(session: AsyncSession, account: str, network: str) -> bool:
    """Whether the account has logged in there within KNOWN_FOR."""
    key = _account_keys(account, network).known
    return key in await _read(session, await fast_queries.current_time(session), key)


async def clear(
    session: AsyncSession, account: str, ip_address: str | None, *, all_accounts: bool = False
) -> None:
    """Delete the account's counters of failures and of logins.

    With an `ip_address`, also the account's failures from there and, if `all_accounts`, those of
    all accounts. Part of the caller's transaction.
    """
    network = network_to_limit(ip_address) if ip_address is not None else None
    own = _account_keys(account, network or "")
    keys = [own.account]
    if network is not None:
        keys += [_key("address", network)] if all_accounts else []
        keys += [own.pair]
    # One after the other, in the order of a login, so that there is no deadlock.
    for key in (*keys, own.login):
        await session.execute(delete(AttemptCounter).where(AttemptCounter.key == key))


async def forget_account(session: AsyncSession, account: str) -> None:
    """Delete all counters and known addresses of a removed account, so that none of them applies to
    another user who takes the name. Part of the caller's transaction."""
    prefix = _account_keys(account, "").account[:_PREFIX]
    for kind in range(len(AccountKeys._fields)):  # one by one, in the order of a login
        is_of_kind = AttemptCounter.key.between(f"{prefix}{kind}", f"{prefix}{kind + 1}")
        await session.execute(delete(AttemptCounter).where(is_of_kind))


async def expired(session: AsyncSession, now: datetime) -> ColumnElement[bool]:
    """A condition for a query: expired rows and, if there are more than MAX_ROWS of a kind, those
    that expire first.

    Each kind has a limit of its own. Otherwise an attacker could have failures deleted by logging
    in to one account from a million IPv6 addresses, or rates by a million failures.
    """
    conditions = [AttemptCounter.expires_at <= now]
    for kind in (
        AttemptCounter.failures == 0,
        AttemptCounter.failures > 0,
        AttemptCounter.failures < 0,
    ):
        latest_first = (
            select(AttemptCounter.expires_at).where(kind).order_by(AttemptCounter.expires_at.desc())
        )
        if last := await session.scalar(latest_first.offset(MAX_ROWS).limit(1)):
            conditions.append(and_(kind, AttemptCounter.expires_at <= last))
    return or_(*conditions)


async def _read(session: AsyncSession, now: datetime, *keys: str) -> dict[str, StoredCounter]:
    padded = (*keys, *("" for _ in range(_MAX_KEYS - len(keys))))
    named = {f"key{number}": key for number, key in enumerate(padded)}
    rows = await fast_queries.run(session, _SELECT, {**named, "now": now})
    return {row[0]: StoredCounter(*row) for row in rows}


class AccountKeys(NamedTuple):
    """In the order in which a login writes to their rows."""

    account: str
    pair: str  # of the account and the network
    known: str
    login: str


_PREFIX = 16  # of the keys of one account


def _account_keys(account: str, network: str) -> AccountKeys:
    """All keys of one account begin alike, so that forget_account() finds those of any network. A
    digit follows: whatever the collation of the database, it is sorted as itself."""
    own, of_pair = _key_hash(account), _key_hash(account, network)
    prefix, rest, pair_rest = own[:_PREFIX], own[_PREFIX:31], of_pair[:15]
    return AccountKeys(
        f"{prefix}0{rest}", f"{prefix}1{pair_rest}", f"{prefix}2{pair_rest}", f"{prefix}3{rest}"
    )


def _key(*parts: str) -> str:
    return _key_hash(*parts)[:32]


def _key_hash(*parts: str) -> str:
    """Usernames are stored only as hashes, because users sometimes type a password there."""
    return hashlib.sha256("\n".join(parts).encode("utf-8", "surrogatepass")).hexdigest()
