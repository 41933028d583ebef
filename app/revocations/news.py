"""The live revocations in a worker's memory, and whether they are all there are.

Every deed that ends a token before its time publishes a revocation in the same transaction. So a
signed, unexpired token holds unless one of its values is in this memory, provided that the memory
is current. Who asks must ask that first, and go to the database if the answer is no: an old answer
is never believed.
"""

import asyncio
import logging
from abc import ABC, abstractmethod
from collections.abc import Iterable
from contextlib import closing
from datetime import timedelta
from time import monotonic
from typing import Any

from sqlalchemy.ext.asyncio import AsyncEngine

from app.chores import pause
from app.sqlite import Reader

# How long a poll's answer is believed, counted from when the question was put, and how long until
# the next one. A revocation is heard of on every PostgreSQL worker within BELIEVED_SECONDS.
BELIEVED_SECONDS = 0.1
POLL_SECONDS = 0.025
_PATIENCE_SECONDS = 1.0

_HEAD = "SELECT name, position FROM revocation_feed"
_SINCE = "SELECT value FROM revocations WHERE position > {} ORDER BY position"

_log = logging.getLogger("hourpass.revocations")


class News(ABC):
    """What is revoked. Bounded, since entries leave once no token that they end can be alive."""

    def __init__(self, lifetime: timedelta) -> None:
        self._lifetime = lifetime.total_seconds()
        self._revoked: dict[str, float] = {}  # value: when to forget it; the oldest first
        self._name = ""
        self.position = 0

    @abstractmethod
    def is_current(self) -> bool:
        """Whether every revocation of this moment is known. Cheap enough for every request."""

    @abstractmethod
    async def listen(self, ending: asyncio.Event) -> None:
        """Only meanwhile can is_current() say yes."""

    @abstractmethod
    def distrust(self) -> None:
        """Something has just been revoked by this very process: what is known so far is old."""

    def is_revoked(self, values: Iterable[str]) -> bool:
        return not self._revoked.keys().isdisjoint(values)

    def _is_at(self, name: str, position: int) -> bool:
        return position == self.position and name == self._name

    def _start_in(self, name: str) -> int:
        """From where to read on: from the beginning if the feed is another one."""
        return self.position if name == self._name else 0

    def _learn(self, name: str, position: int, values: Iterable[str]) -> None:
        now = monotonic()
        if name != self._name:
            self._revoked.clear()
        for value in values:
            self._revoked.pop(value, None)
            self._revoked[value] = now + self._lifetime
        while self._revoked and next(iter(self._revoked.values())) <= now:
            del self._revoked[next(iter(self._revoked))]
        self._name, self.position = name, position


class SqliteNews(News):
    """Asks the file itself, once in each turn of the event loop that has a request.

    All requests that a turn answers had been read before it began (protocol.py sees to it), so that
    none of them can have been sent after the answer to a revocation that the question missed.
    """

    def __init__(self, path: str, lifetime: timedelta) -> None:
        super().__init__(lifetime)
        self._path = path
        self._reader: Reader | None = None
        self._answer: bool | None = None

    async def listen(self, ending: asyncio.Event) -> None:
        with closing(Reader(self._path)) as reader:
            self._reader = reader
            try:
                await ending.wait()
            finally:
                self._reader = None

    def is_current(self) -> bool:
        if self._answer is None:
            # First in line for the next turn, before any of its requests.
            asyncio.get_running_loop().call_soon(self.distrust)
            self._answer = self._ask()
        return self._answer

    def distrust(self) -> None:
        self._answer = None

    def _ask(self) -> bool:
        if self._reader is None:
            return False
        head = self._reader.fetch(_HEAD)
        if head is None:
            return False
        ((name, position),) = head
        if not self._is_at(name, position):
            rows = self._reader.fetch(_SINCE.format("?"), (self._start_in(name),))
            if rows is None:
                return False
            self._learn(name, position, [value for (value,) in rows])
        return True


class PollingNews(News):
    """Asks a server forty times a second, and believes an answer for a tenth of one.

    A notification could get lost with its connection, or hang in it unnoticed; an answer that is
    too old cannot.
    """

    def __init__(self, engine: AsyncEngine, lifetime: timedelta) -> None:
        super().__init__(lifetime)
        self._engine = engine
        self._believed_until = 0.0
        self._distrusted_at = 0.0

    def is_current(self) -> bool:
        return monotonic() < self._believed_until

    def distrust(self) -> None:
        self._distrusted_at = monotonic()
        self._believed_until = 0.0

    async def listen(self, ending: asyncio.Event) -> None:
        """On one connection, for as long as it lasts. While there is none, is_current() says no."""
        try:
            await self._keep_polling(ending)
        finally:
            await self._engine.dispose()

    async def _keep_polling(self, ending: asyncio.Event) -> None:
        while not ending.is_set():
            try:
                async with self._engine.connect() as connection:
                    driver: Any = (await connection.get_raw_connection()).driver_connection
                    try:
                        while not await pause(ending, POLL_SECONDS):
                            async with asyncio.timeout(_PATIENCE_SECONDS):
                                await self._poll(driver)
                    finally:  # not for the pool again: it may hang in a question
                        await connection.invalidate()
            except Exception as error:  # noqa: BLE001 - each driver has its own
                _log.warning("Revocations cannot be polled", extra={"cause": type(error).__name__})
                await pause(ending, _PATIENCE_SECONDS)

    async def _poll(self, driver: Any) -> None:
        """Straight to the driver: what SQLAlchemy does besides, forty times a second, is most of
        what an idle worker would do."""
        asked_at = monotonic()
        name, position = await driver.fetchrow(_HEAD)
        if not self._is_at(name, position):
            rows = await driver.fetch(_SINCE.format("$1"), self._start_in(name))
            self._learn(name, position, [value for (value,) in rows])
        if asked_at > self._distrusted_at:
            self._believed_until = asked_at + BELIEVED_SECONDS


def news_from(engine: AsyncEngine, lifetime: timedelta) -> News:
    """The engine becomes the news' own, so that nobody waits for a connection because of it."""
    if engine.dialect.name == "sqlite" and engine.url.database:
        return SqliteNews(engine.url.database, lifetime)
    return PollingNews(engine, lifetime)
