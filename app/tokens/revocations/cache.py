"""The unexpired revocations in the memory of a worker, and whether they are complete.

Every operation that invalidates a token before it expires publishes a revocation in the same
transaction. So if this cache is fresh, a signed, unexpired token is valid unless one of its values
is in the cache. Callers check first whether the cache is fresh, and otherwise ask the database.

A revocation that has been read is kept until it expires, whatever happens to the database: after a
restore or a failover, the feed may not have it (decision 6).
"""

import asyncio
import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from datetime import UTC, datetime
from time import monotonic
from typing import Any

from sqlalchemy.ext.asyncio import AsyncEngine

from app.background_jobs import wait_or_stop
from app.database.connector import Connector
from app.database.engine import Database
from app.database.failure_log import FailureLog
from app.database.sqlite_driver import Reader
from app.tokens.revocations.entries import FeedEntries, FeedEntry, Head

# How long the result of a poll is fresh, counted from when the query was sent, and the time between
# polls. So on PostgreSQL, every worker knows a revocation within FRESH_SECONDS. If the database is
# so far away that the next result takes longer to arrive, it is fresh until then, up to
# MAX_FRESH_SECONDS: enough for a round trip of 75 ms.
FRESH_SECONDS = 0.1
MAX_FRESH_SECONDS = 0.2
POLL_SECONDS = 0.033
_QUERY_TIMEOUT_SECONDS = 1.0
_BATCH = 5_000  # rows of one query

# A feed entry `key:<fingerprint>` revokes nothing: it announces an API key that has become valid.
KEY_PREFIX = "key:"

_HEAD = "SELECT name, position, mark FROM revocation_feed"
# A standby may lack the newest revocations, or may no longer follow a primary.
_POSTGRES_HEAD = _HEAD.replace(" FROM", ", pg_is_in_recovery() FROM")
_COLUMNS = "SELECT position, mark, value, expires_at, {seconds_left} FROM revocations"
# The first row is the entry at the last known position, to check that it is still the same.
_SINCE = _COLUMNS + " WHERE position >= {position} ORDER BY position LIMIT {limit}"
_SQLITE_SINCE = _SINCE.format(
    seconds_left="(julianday(expires_at) - julianday('now')) * 86400", position="?", limit=_BATCH
)
_POSTGRES_SINCE = _SINCE.format(
    seconds_left="EXTRACT(EPOCH FROM expires_at - CURRENT_TIMESTAMP)", position="$1", limit=_BATCH
)

_log = logging.getLogger("hourpass.revocations")


class _StandbyError(OSError):
    """The connection leads to a standby; the next one may lead to the primary."""


class RevocationCache(ABC):
    """Forgets entries when no token that they revoke can be valid. That is measured by the
    monotonic clock: setting the wall clock back must not make revoked tokens valid again."""

    may_lag = False  # whether a fresh cache may lack what was committed a moment ago

    def __init__(self) -> None:
        self.entries = FeedEntries()
        # Incremented when the database turns out to be another one, or to have another past. What
        # it said about users before is then invalid.
        self.history = 0
        self._queried_at = float("-inf")  # when the last successful query was sent
        self._seen_fresh_at = monotonic()  # by stale_seconds()
        self._fresh_seconds = FRESH_SECONDS
        self._invalidated_at = float("-inf")
        self._revoked_keys = 0
        self._forget_at: dict[str, float] = {}  # by value, on the monotonic clock
        # Called with what follows KEY_PREFIX.
        self.on_key: Callable[[str], None] = lambda _fingerprint: None

    @abstractmethod
    def is_fresh(self) -> bool:
        """Whether all revocations are known as of now. Cheap enough for every request."""

    @abstractmethod
    async def follow(self, stopping: asyncio.Event) -> None:
        """A background job that keeps the cache fresh."""

    @abstractmethod
    def invalidate(self) -> None:
        """Called after this process has revoked something: the cache is no longer fresh."""

    async def wait_for_read(self) -> bool:
        """Wait until a read has begun and ended. Returns False if that takes over a second."""
        return self.is_fresh()

    def stale_seconds(self) -> float:
        """The time since all revocations were known; 0 while they are. Call it regularly."""
        now = monotonic()
        if self.is_fresh():
            self._seen_fresh_at = now
        return now - max(self._seen_fresh_at, min(self._queried_at, now))

    @property
    def head(self) -> Head:
        return self.entries.head

    def count_revoked_keys(self) -> int:
        """How many revoked signing keys are known. Never decreases."""
        self.is_fresh()  # on SQLite, this reads
        return self._revoked_keys

    async def wait_until_fresh(self, asked_at: float) -> bool:
        """Whether the cache was fresh at `asked_at`, on the monotonic clock, or later. Waits
        up to a second."""
        needed = max(asked_at - self._fresh_seconds, self._invalidated_at)
        return await _comes_true(lambda: self.is_fresh() or self._queried_at > needed)

    async def wait_for_query(self, asked_at: float) -> bool:
        """Whether the database was queried after `asked_at`: a fresh cache may lack what another
        worker knew before. Waits up to a second."""
        return await _comes_true(lambda: self._queried_at > asked_at)

    def is_revoked(self, values: Iterable[str]) -> bool:
        return not self._forget_at.keys().isdisjoint(values)

    def find_lost(self) -> list[str]:
        """The unexpired revocations that are known here, and that the database lacks."""
        listed, now = self.entries.values(), monotonic()
        return [
            value
            for value, forget_at in self._forget_at.items()
            if forget_at > now and value not in listed
        ]

    def _first_missing(self, head: Head) -> int | None:
        """The position from which to read, or None if there is nothing to read."""
        if head == self.head:
            return None
        return self.head.position if head.name == self.head.name else 0

    def _apply(self, head: Head, first: int, entries: Sequence[FeedEntry]) -> int | None:
        """Add a batch that was read from position `first` on. Returns the position from which to
        read the next batch, or None if the cache is complete."""
        known = self.head
        if first == 0:
            if head.name != known.name or known.position:
                self._start_over()
        elif entries and entries[0][:2] == (known.position, known.mark):
            entries = entries[1:]
        else:  # the feed does not continue from the last known entry
            return 0
        if entries and entries[-1].position > head.position:  # published after the head was read
            head = Head(head.name, entries[-1].position, entries[-1].mark)
        if not entries or entries[-1].position >= head.position:
            self._extend(head, entries)
            return None
        self._extend(Head(head.name, entries[-1].position, entries[-1].mark), entries)
        return entries[-1].position

    def _start_over(self) -> None:
        if self.head.name:
            _log.warning("The database has another history of revocations, reading all of them")
        self.entries = FeedEntries()
        self.history += 1
        self._queried_at = float("-inf")

    def _extend(self, head: Head, entries: Sequence[FeedEntry]) -> None:
        now = monotonic()
        for entry in entries:
            if entry.value.startswith(KEY_PREFIX):
                self.on_key(entry.value[len(KEY_PREFIX) :])
            elif entry.seconds_left > 0:
                # Appended, so that the dict stays in the order of expiry.
                forget_at = max(self._forget_at.pop(entry.value, 0), now + entry.seconds_left)
                self._forget_at[entry.value] = forget_at
                self._revoked_keys += entry.value.startswith("kid:")
        while self._forget_at and next(iter(self._forget_at.values())) <= now:
            del self._forget_at[next(iter(self._forget_at))]
        self.entries.extend(head, entries, now)


class SqliteRevocationCache(RevocationCache):
    """Queries the file, once in each turn of the event loop that answers requests.

    The requests that a turn answers were read before it began (server/batch.py). So none of them
    can have been sent after the response to a revocation that the query missed.
    """

    def __init__(self, path: str) -> None:
        super().__init__()
        self._path = path
        self._reader: Reader | None = None
        self._is_fresh: bool | None = None

    async def follow(self, stopping: asyncio.Event) -> None:
        with closing(Reader(self._path)) as reader:
            self._reader = reader
            try:
                while not self.is_fresh() and not await wait_or_stop(stopping, POLL_SECONDS):
                    pass
                await stopping.wait()
            finally:
                self._reader = None

    def is_fresh(self) -> bool:
        if self._is_fresh is None:
            # The first callback of the next turn, before any of its requests.
            asyncio.get_running_loop().call_soon(self.invalidate)
            self._is_fresh = self._read()
        return self._is_fresh

    async def wait_for_query(self, asked_at: float) -> bool:
        return self.is_fresh()  # a fresh cache lacks nothing

    def invalidate(self) -> None:
        self._is_fresh = None

    def _read(self) -> bool:
        """Reads one batch per turn, so that a long feed does not block the event loop."""
        if self._reader is None or not (rows := self._reader.fetch(_HEAD)):
            return False
        head = Head(*rows[0])
        first = self._first_missing(head)
        if first is None:
            return True
        batch = self._reader.fetch(_SQLITE_SINCE, (first,))
        if batch is None:
            return False
        next_position = self._apply(head, first, [_sqlite_entry(row) for row in batch])
        if next_position == 0:  # read from the beginning in the next turn
            self._start_over()
        return next_position is None


class PostgresRevocationCache(RevocationCache):
    """Polls the server thirty times a second. A result is fresh for a tenth of a second, or longer
    if the server is far away.

    LISTEN and NOTIFY would not do: a notification can be lost or delayed without notice. The age of
    a result is always known.
    """

    may_lag = True

    def __init__(self, engine: AsyncEngine, connector: Connector) -> None:
        """`engine` is for this cache alone, so that polling takes no connection from requests.
        `connector` opens its connections and those of requests."""
        super().__init__()
        self._engine = engine
        self._connector = connector
        self._failures = FailureLog(_log, "Cannot poll revocations")

    def is_fresh(self) -> bool:
        if self._queried_at <= self._invalidated_at:
            return False
        return monotonic() < self._queried_at + self._fresh_seconds

    async def wait_for_read(self) -> bool:
        asked_at = monotonic()
        while self._queried_at <= asked_at:
            if monotonic() > asked_at + _QUERY_TIMEOUT_SECONDS:
                return False
            await asyncio.sleep(POLL_SECONDS / 4)
        return True

    def invalidate(self) -> None:
        self._invalidated_at = monotonic()

    async def follow(self, stopping: asyncio.Event) -> None:
        """Polls on one connection. Without a connection, the cache is not fresh."""
        try:
            await self._keep_polling(stopping)
        finally:
            await self._engine.dispose()

    async def _keep_polling(self, stopping: asyncio.Event) -> None:
        while not stopping.is_set():
            try:
                async with self._engine.connect() as connection:
                    driver: Any = (await connection.get_raw_connection()).driver_connection
                    try:
                        while not stopping.is_set() and self._is_of_primary(driver):
                            await self._poll(driver)
                            self._failures.succeeded()
                            await asyncio.sleep(POLL_SECONDS)
                    finally:  # not returned to the pool: a query may be in progress
                        await connection.invalidate()
            except Exception as error:  # noqa: BLE001 - drivers raise errors of their own
                self._failures.failed(error)
                await wait_or_stop(stopping, _QUERY_TIMEOUT_SECONDS)

    def _is_of_primary(self, driver: Any) -> bool:
        """False if a connection of a request has found a newer timeline meanwhile."""
        return driver.timeline in (None, self._connector.timeline)

    async def _poll(self, driver: Any) -> None:
        """Uses the driver directly: thirty times a second, SQLAlchemy would be most of the CPU time
        of an idle worker."""
        asked_at = monotonic()
        *fields, is_standby = await driver.fetchrow(_POSTGRES_HEAD, timeout=_QUERY_TIMEOUT_SECONDS)
        if is_standby:
            self._connector.discard_all()  # those of requests lead to it as well
            raise _StandbyError
        head = Head(*fields)
        first = self._first_missing(head)
        while first is not None:
            rows = await driver.fetch(_POSTGRES_SINCE, first, timeout=_QUERY_TIMEOUT_SECONDS)
            first = self._apply(head, first, [_postgres_entry(row) for row in rows])
        self._queried_at = asked_at
        # The next result arrives after this poll, the pause and a poll that takes as long.
        next_seconds = 2 * (monotonic() - asked_at) + 1.5 * POLL_SECONDS
        self._fresh_seconds = min(max(FRESH_SECONDS, next_seconds), MAX_FRESH_SECONDS)


async def _comes_true(is_known: Callable[[], bool]) -> bool:
    deadline = monotonic() + _QUERY_TIMEOUT_SECONDS
    while not is_known():
        if monotonic() > deadline:
            return False
        await asyncio.sleep(POLL_SECONDS)
    return True


def _sqlite_entry(row: Sequence[Any]) -> FeedEntry:
    position, mark, value, expires_at, seconds_left = row
    moment = datetime.fromisoformat(expires_at).replace(tzinfo=UTC)
    return FeedEntry(position, mark, value, moment.timestamp(), seconds_left)


def _postgres_entry(row: Sequence[Any]) -> FeedEntry:
    position, mark, value, expires_at, seconds_left = row
    return FeedEntry(position, mark, value, expires_at.timestamp(), float(seconds_left))


def create_cache(database: Database) -> RevocationCache:
    engine = database.engine
    if engine.dialect.name == "sqlite" and engine.url.database:
        return SqliteRevocationCache(engine.url.database)
    return PostgresRevocationCache(database.create_engine(), database.connector)
