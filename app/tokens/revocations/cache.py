"""The unexpired revocations in a worker's memory, and whether they are complete.

Every operation that ends a token early publishes a revocation in the same transaction. So a signed,
unexpired token is valid unless one of its values is in this cache, provided that the cache is
fresh. Callers ask that first, and go to the database if it is not.

A revocation once read stays in force until it expires, whatever becomes of the database: after a
restore or a failover the feed may lack it (decision 6).
"""

import asyncio
import logging
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from contextlib import closing
from datetime import UTC, datetime
from time import monotonic
from typing import Any

from sqlalchemy.ext.asyncio import AsyncEngine

from app.background_jobs import wait_or_stop
from app.database.sqlite_driver import Reader
from app.tokens.revocations.entries import Entry, FeedEntries, Head

# How long the answer to a poll counts as fresh, from when it was sent, and the time between polls.
# Every PostgreSQL worker knows of a revocation within FRESH_SECONDS.
FRESH_SECONDS = 0.1
POLL_SECONDS = 0.033
_QUERY_TIMEOUT_SECONDS = 1.0
_BATCH = 5_000  # rows of one query

_HEAD = "SELECT name, position, mark FROM revocation_feed"
_COLUMNS = "SELECT position, mark, value, expires_at, {seconds_left} FROM revocations"
# The entry at the last known position comes first, to show that it is still the same one.
_SINCE = _COLUMNS + " WHERE position >= {position} ORDER BY position LIMIT {limit}"
_SQLITE_SINCE = _SINCE.format(
    seconds_left="(julianday(expires_at) - julianday('now')) * 86400", position="?", limit=_BATCH
)
_POSTGRES_SINCE = _SINCE.format(
    seconds_left="EXTRACT(EPOCH FROM expires_at - CURRENT_TIMESTAMP)", position="$1", limit=_BATCH
)

_log = logging.getLogger("hourpass.revocations")


class RevocationCache(ABC):
    """Bounded, since entries are forgotten when no token that they revoke can be valid. That is
    counted on the monotonic clock: a wall clock that is set back must not bring tokens back."""

    def __init__(self) -> None:
        self.entries = FeedEntries()
        # Raised when the database turns out to be another one, or this one with another past:
        # nothing that it said before about users counts any longer.
        self.history = 0
        self._known_at = float("-inf")  # when the last query was sent that has been answered
        self._invalidated_at = float("-inf")
        self._revoked_keys = 0
        self._forget_at: dict[str, float] = {}  # by value, on the monotonic clock

    @abstractmethod
    def is_fresh(self) -> bool:
        """Whether every revocation of this moment is known. Cheap enough for every request."""

    @abstractmethod
    async def follow(self, stopping: asyncio.Event) -> None:
        """A background job. The cache is fresh only while it runs."""

    @abstractmethod
    def invalidate(self) -> None:
        """This very process has just revoked something: what is known so far is old."""

    @property
    def head(self) -> Head:
        return self.entries.head

    def count_revoked_keys(self) -> int:
        """How many signing keys have been revoked, as far as is known. Never goes down."""
        self.is_fresh()  # reads, where reading is what it takes
        return self._revoked_keys

    async def wait_until_fresh(self, asked_at: float) -> bool:
        """Whether the cache was fresh at that moment of the monotonic clock, or is so now. Waits
        for a second at most."""
        deadline = monotonic() + _QUERY_TIMEOUT_SECONDS
        needed = max(asked_at - FRESH_SECONDS, self._invalidated_at)
        while not self.is_fresh() and self._known_at <= needed:
            if monotonic() > deadline:
                return False
            await asyncio.sleep(POLL_SECONDS)
        return True

    def is_revoked(self, values: Iterable[str]) -> bool:
        return not self._forget_at.keys().isdisjoint(values)

    def _first_missing(self, head: Head) -> int | None:
        """The position from which to read, or None if there is nothing to read."""
        if head == self.head:
            return None
        return self.head.position if head.name == self.head.name else 0

    def _apply(self, head: Head, first: int, entries: Sequence[Entry]) -> int | None:
        """Add a batch that was read from the position `first` on. Returns the position from which
        to read the next one, or None when all is known up to the head."""
        known = self.head
        if first == 0:
            if head.name != known.name or known.position:
                self._start_over()
        elif entries and entries[0][:2] == (known.position, known.mark):
            entries = entries[1:]
        else:  # what was read does not go on from what is known
            return 0
        if entries and entries[-1].position > head.position:  # the head was read before them
            head = Head(head.name, entries[-1].position, entries[-1].mark)
        if not entries or entries[-1].position >= head.position:
            self._extend(head, entries)
            return None
        self._extend(Head(head.name, entries[-1].position, entries[-1].mark), entries)
        return entries[-1].position

    def _start_over(self) -> None:
        if self.head.name:
            _log.warning("The database has another history of revocations; reading all of them")
        self.entries = FeedEntries()
        self.history += 1
        self._known_at = float("-inf")

    def _extend(self, head: Head, entries: Sequence[Entry]) -> None:
        now = monotonic()
        for entry in entries:
            if entry.seconds_left > 0:
                # Put at the end, behind all that expire earlier.
                forget_at = max(self._forget_at.pop(entry.value, 0), now + entry.seconds_left)
                self._forget_at[entry.value] = forget_at
                self._revoked_keys += entry.value.startswith("kid:")
        while self._forget_at and next(iter(self._forget_at.values())) <= now:
            del self._forget_at[next(iter(self._forget_at))]
        self.entries.extend(head, entries, now)


class SqliteRevocationCache(RevocationCache):
    """Asks the file itself, once in each turn of the event loop that has a request.

    All requests that a turn answers had been read before it began (protocol.py sees to it), so that
    none of them can have been sent after the answer to a revocation that the query missed.
    """

    def __init__(self, path: str) -> None:
        super().__init__()
        self._path = path
        self._reader: Reader | None = None
        self._answer: bool | None = None

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
        if self._answer is None:
            # First in line for the next turn, before any of its requests.
            asyncio.get_running_loop().call_soon(self.invalidate)
            self._answer = self._read()
        return self._answer

    def invalidate(self) -> None:
        self._answer = None

    def _read(self) -> bool:
        """One batch in each turn, so that a long feed does not keep the event loop."""
        if self._reader is None or not (found := self._reader.fetch(_HEAD)):
            return False
        head = Head(*found[0])
        first = self._first_missing(head)
        if first is None:
            return True
        rows = self._reader.fetch(_SQLITE_SINCE, (first,))
        if rows is None:
            return False
        following = self._apply(head, first, [_sqlite_entry(row) for row in rows])
        if following == 0:  # starts over in the next turn
            self._start_over()
        return following is None


class PostgresRevocationCache(RevocationCache):
    """Asks a server thirty times a second, and takes an answer as fresh for a tenth of one.

    A notification could get lost with its connection, or hang in it unnoticed; an answer that is
    too old cannot.
    """

    def __init__(self, engine: AsyncEngine) -> None:
        """The engine becomes the cache's own, so that nobody waits for a connection because of
        it."""
        super().__init__()
        self._engine = engine

    def is_fresh(self) -> bool:
        if self._known_at <= self._invalidated_at:
            return False
        return monotonic() < self._known_at + FRESH_SECONDS

    def invalidate(self) -> None:
        self._invalidated_at = monotonic()

    async def follow(self, stopping: asyncio.Event) -> None:
        """On one connection, for as long as it lasts. While there is none, nothing is fresh."""
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
                        while not stopping.is_set():
                            await self._poll(driver)
                            await asyncio.sleep(POLL_SECONDS)
                    finally:  # not for the pool again: it may hang in a query
                        await connection.invalidate()
            except Exception as error:  # noqa: BLE001 - each driver has its own
                _log.warning("Revocations cannot be polled", extra={"cause": type(error).__name__})
                await wait_or_stop(stopping, _QUERY_TIMEOUT_SECONDS)

    async def _poll(self, driver: Any) -> None:
        """Straight to the driver: what SQLAlchemy does besides, thirty times a second, is most of
        what an idle worker would do."""
        asked_at = monotonic()
        head = Head(*await driver.fetchrow(_HEAD, timeout=_QUERY_TIMEOUT_SECONDS))
        first = self._first_missing(head)
        while first is not None:
            rows = await driver.fetch(_POSTGRES_SINCE, first, timeout=_QUERY_TIMEOUT_SECONDS)
            first = self._apply(head, first, [_postgres_entry(row) for row in rows])
        self._known_at = asked_at


def _sqlite_entry(row: Sequence[Any]) -> Entry:
    position, mark, value, expires_at, seconds_left = row
    moment = datetime.fromisoformat(expires_at).replace(tzinfo=UTC)
    return Entry(position, mark, value, moment.timestamp(), seconds_left)


def _postgres_entry(row: Sequence[Any]) -> Entry:
    position, mark, value, expires_at, seconds_left = row
    return Entry(position, mark, value, expires_at.timestamp(), float(seconds_left))


def create_cache(engine: AsyncEngine) -> RevocationCache:
    if engine.dialect.name == "sqlite" and engine.url.database:
        return SqliteRevocationCache(engine.url.database)
    return PostgresRevocationCache(engine)
