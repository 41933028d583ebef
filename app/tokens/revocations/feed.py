"""The feed as it goes to listeners: pages at once, or an answer held back until the feed moves.

One look at the cache every 25 ms serves all listeners. They are woken when the feed has moved, or
when they asked to be. While an answer is held back, a space goes out every HEARTBEAT_SECONDS, which
JSON allows before a value. The n-th one is sent no sooner than n times that after the request came
in, and only while the cache is fresh. So it proves to the listener that it knows of everything
published up to then, however late it arrives.
"""

import asyncio
import logging
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from time import monotonic

from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from app.errors import ApiError, UnavailableError
from app.tokens.revocations.cache import RevocationCache
from app.tokens.revocations.entries import Head, Page
from app.tokens.revocations.errors import CursorOfAnotherHistoryError, TooManyListenersError

MAX_LISTENERS = 5_000  # of each worker; one takes some 30 KB
MAX_WAIT_SECONDS = 30
HEARTBEAT_SECONDS = 3.0
TICK_SECONDS = 0.025
# Before others have a turn of the event loop. The listeners ask again at once: with smaller batches
# the first ones to ask again would keep the last ones waiting.
WOKEN_AT_ONCE = 1_000
WARNING_SECONDS = 3600.0  # between two warnings that the database may have been restored

_JSON = (b"content-type", b"application/json")
# nginx would otherwise collect the heartbeats and pass them on together, at the end.
_UNBUFFERED = (b"x-accel-buffering", b"no")

_log = logging.getLogger("hourpass.revocations")


class Listener:
    """Someone who waits for the feed to move."""

    def __init__(self) -> None:
        self.is_gone = False
        self._waiting: asyncio.Future[None] | None = None

    def wake(self) -> None:
        if self._waiting and not self._waiting.done():
            self._waiting.set_result(None)

    def wait(self) -> asyncio.Future[None]:
        """Until wake() is called."""
        self._waiting = asyncio.get_running_loop().create_future()
        return self._waiting


class RevocationFeed:
    def __init__(
        self,
        cache: RevocationCache,
        refresh_keys: Callable[[], Awaitable[None]],
        stopping: asyncio.Event,
        max_listeners: int = MAX_LISTENERS,
    ) -> None:
        """`refresh_keys` reads the signing keys if one has been revoked since they were read: the
        feed must not list a revoked key before this worker can publish the one that follows it."""
        self.cache = cache
        self._refresh_keys = refresh_keys
        self._stopping = stopping
        self.max_listeners = max_listeners
        self.is_fresh = False  # the cache was, at the last tick
        self._listeners: set[Listener] = set()
        self._alarms: dict[int, list[Listener]] = defaultdict(list)  # by the number of the tick
        self._ticker: asyncio.Task[None] | None = None
        self._tick_number = 0  # the last one
        self._warned_at = float("-inf")

    @property
    def is_stopping(self) -> bool:
        return self._stopping.is_set()

    async def page_after(self, cursor: str | None, asked_at: float) -> Page:
        """What was revoked after the cursor and has not expired; all of it as of `asked_at`, on the
        monotonic clock.

        Raises CursorUnknownError, and UnavailableError if that much is not known.
        """
        if not await self.cache.wait_until_fresh(asked_at):
            raise UnavailableError
        await self._refresh_keys()
        try:
            return self.cache.entries.page_after(cursor, monotonic())
        except CursorOfAnotherHistoryError:
            self._warn_of_another_history()
            raise

    @contextmanager
    def listening(self) -> Iterator[Listener]:
        """Raises TooManyListenersError."""
        if len(self._listeners) >= self.max_listeners:
            raise TooManyListenersError
        listener = Listener()
        self._listeners.add(listener)
        if self._ticker is None or self._ticker.done():
            self._tick_number = int(monotonic() / TICK_SECONDS)
            self._ticker = asyncio.create_task(self._tick(self.cache.head))
        try:
            yield listener
        finally:
            self._listeners.discard(listener)

    def wake_at(self, moment: float, listener: Listener) -> None:
        """At the first tick after that moment of the monotonic clock. A timer for each listener
        would cost more than all the rest of a heartbeat."""
        number = max(int(moment / TICK_SECONDS), self._tick_number) + 1
        self._alarms[number].append(listener)

    def close(self) -> None:
        if self._ticker:
            self._ticker.cancel()

    async def _tick(self, head: Head) -> None:
        """There are no ticks while nobody listens. `head` is the one that listeners know."""
        while self._listeners:
            self.is_fresh = self.cache.is_fresh()
            if self.cache.head != head or self.is_stopping:
                head = self.cache.head
                await _wake(list(self._listeners))
            last, self._tick_number = self._tick_number, int(monotonic() / TICK_SECONDS)
            for due in range(last + 1, self._tick_number + 1):
                await _wake(self._alarms.pop(due, ()))
            await asyncio.sleep(TICK_SECONDS)
        self._alarms.clear()

    def _warn_of_another_history(self) -> None:
        """Anybody can make up such a cursor, so this is rare and only a hint."""
        if monotonic() >= self._warned_at + WARNING_SECONDS:
            self._warned_at = monotonic()
            _log.warning(
                "A listener knows revocations that this database lacks. If it was restored from "
                "a backup, run `hourpass after-restore`"
            )


async def _wake(listeners: Iterable[Listener]) -> None:
    for number, listener in enumerate(listeners, start=1):
        listener.wake()
        if number % WOKEN_AT_ONCE == 0:
            await asyncio.sleep(0)


class FeedResponse(Response):
    """The page after the cursor, held back for up to `wait` seconds while it is empty."""

    def __init__(self, feed: RevocationFeed, cursor: str | None, wait: int) -> None:
        super().__init__()
        self._feed = feed
        self._cursor = cursor
        self._wait = wait
        self._has_heartbeat = True
        self._has_begun = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        asked_at = monotonic()
        # HTTP/1.0 has no chunks (RFC 9112, 6.1), and so no beginning before the length is known.
        self._has_heartbeat = scope.get("http_version") != "1.0"
        page = await self._feed.page_after(self._cursor, asked_at)
        if page.is_empty and self._wait:
            with self._feed.listening() as listener:
                leaving = asyncio.create_task(_until_gone(receive, listener))
                try:
                    await self._hold_back(listener, asked_at, send)
                finally:
                    leaving.cancel()
            if listener.is_gone:
                raise ClientDisconnect
            page = await self._page_after_waiting(page, asked_at)
        if not self._has_begun:
            length = (b"content-length", b"%d" % len(page.body))
            await send(_start(_JSON, length))
        await send({"type": "http.response.body", "body": page.body})

    async def _hold_back(self, listener: Listener, asked_at: float, send: Send) -> None:
        feed, head = self._feed, self._feed.cache.head
        ends_at = asked_at + self._wait
        beats_at = asked_at + HEARTBEAT_SECONDS
        feed.wake_at(min(beats_at, ends_at), listener)
        while feed.cache.head == head and not listener.is_gone and not feed.is_stopping:
            now = monotonic()
            if now >= ends_at:
                return
            if now >= beats_at:
                beats_at += HEARTBEAT_SECONDS
                feed.wake_at(min(beats_at, ends_at), listener)
                if feed.is_fresh and self._has_heartbeat:
                    await self._beat(send)
            await listener.wait()

    async def _beat(self, send: Send) -> None:
        if not self._has_begun:
            self._has_begun = True
            await send(_start(_JSON, _UNBUFFERED))
        await send({"type": "http.response.body", "body": b" ", "more_body": True})

    async def _page_after_waiting(self, empty: Page, asked_at: float) -> Page:
        """The status has been sent with the first heartbeat. A refusal has to wait until the
        listener asks again, which it does at once."""
        try:
            return await self._feed.page_after(self._cursor, asked_at)
        except ApiError:
            if self._has_begun:
                return empty
            raise


def _start(*headers: tuple[bytes, bytes]) -> dict[str, object]:
    return {"type": "http.response.start", "status": 200, "headers": list(headers)}


async def _until_gone(receive: Receive, listener: Listener) -> None:
    with suppress(ApiError):  # a body that is too large
        while (await receive())["type"] != "http.disconnect":
            pass
    listener.is_gone = True
    listener.wake()
