"""Sends the feed to listeners: at once or, with long polling, when there are revocations.

One check of the cache every 25 ms is enough for all listeners. It wakes them when the feed has
changed, or at a time that they have asked for. While a listener waits, it gets a heartbeat every
HEARTBEAT_SECONDS: a space, which JSON allows before a value. The n-th heartbeat is sent no earlier
than n times HEARTBEAT_SECONDS after the request arrived, and only while the cache is fresh. So
however late it arrives, it proves that the listener knows all revocations up to that time.
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
# Listeners woken in one turn of the event loop. They send the next request at once, so with smaller
# batches the requests of the first ones would delay the last ones.
WAKE_BATCH_SIZE = 1_000
WARNING_SECONDS = 3600.0  # between two warnings that the database may have been restored

_JSON = (b"content-type", b"application/json")
# Otherwise nginx would buffer the heartbeats and forward them together at the end.
_UNBUFFERED = (b"x-accel-buffering", b"no")

_log = logging.getLogger("hourpass.revocations")


class Listener:
    """A client that waits for new revocations."""

    def __init__(self) -> None:
        self.is_disconnected = False
        self._waiting: asyncio.Future[None] | None = None

    def wake(self) -> None:
        if self._waiting and not self._waiting.done():
            self._waiting.set_result(None)

    def wait(self) -> asyncio.Future[None]:
        """Returns a future that wake() resolves."""
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
        """`refresh_keys` reads the signing keys again if one has been revoked since the last read:
        the feed must not list a revoked key before this worker publishes the key that replaces
        it."""
        self.cache = cache
        self._refresh_keys = refresh_keys
        self._stopping = stopping
        self.max_listeners = max_listeners
        self.is_fresh = False  # whether the cache was fresh at the last tick
        self._listeners: set[Listener] = set()
        self._wake_ups: dict[int, list[Listener]] = defaultdict(list)  # by the number of the tick
        self._ticker: asyncio.Task[None] | None = None
        self._tick_number = 0  # the last one
        self._warned_at = float("-inf")

    @property
    def is_stopping(self) -> bool:
        return self._stopping.is_set()

    @property
    def number_of_listeners(self) -> int:
        return len(self._listeners)

    async def page_after(self, cursor: str | None, asked_at: float) -> Page:
        """The unexpired revocations after the cursor. They are complete as of `asked_at`, on the
        monotonic clock.

        Raises CursorUnknownError, and UnavailableError if the cache does not become fresh in time.
        """
        if not await self.cache.wait_until_fresh(asked_at):
            raise UnavailableError
        try:
            return await self._page_after(cursor)
        except CursorOfAnotherHistoryError:
            # Or the cursor is of another worker, which has queried the database a moment later.
            if not await self.cache.wait_for_query(asked_at):
                raise UnavailableError from None
        try:
            return await self._page_after(cursor)
        except CursorOfAnotherHistoryError:
            self._warn_of_another_history()
            raise

    async def _page_after(self, cursor: str | None) -> Page:
        await self._refresh_keys()
        return self.cache.entries.page_after(cursor, monotonic())

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
        """Wake the listener at the first tick after that time of the monotonic clock. A timer for
        each listener would cost more than the rest of a heartbeat."""
        number = max(int(moment / TICK_SECONDS), self._tick_number) + 1
        self._wake_ups[number].append(listener)

    def close(self) -> None:
        if self._ticker:
            self._ticker.cancel()

    async def _tick(self, head: Head) -> None:
        """Runs while there are listeners. `head` is the one that they know."""
        while self._listeners:
            self.is_fresh = self.cache.is_fresh()
            if self.cache.head != head or self.is_stopping:
                head = self.cache.head
                await _wake(list(self._listeners))
            last, self._tick_number = self._tick_number, int(monotonic() / TICK_SECONDS)
            for due in range(last + 1, self._tick_number + 1):
                await _wake(self._wake_ups.pop(due, ()))
            await asyncio.sleep(TICK_SECONDS)
        self._wake_ups.clear()

    def _warn_of_another_history(self) -> None:
        """Logs rarely, and only as a hint, since any client can invent such a cursor."""
        if monotonic() >= self._warned_at + WARNING_SECONDS:
            self._warned_at = monotonic()
            _log.warning(
                "A listener knows revocations that this database does not have. If it was "
                "restored from a backup, run `hourpass after-restore`"
            )


async def _wake(listeners: Iterable[Listener]) -> None:
    for number, listener in enumerate(listeners, start=1):
        listener.wake()
        if number % WAKE_BATCH_SIZE == 0:
            await asyncio.sleep(0)


class FeedResponse(Response):
    """The page after the cursor. While it is empty, waits up to `wait` seconds for revocations."""

    def __init__(self, feed: RevocationFeed, cursor: str | None, wait: float) -> None:
        super().__init__()
        self._feed = feed
        self._cursor = cursor
        self._wait = wait
        self._has_heartbeat = True
        self._has_started = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        asked_at = monotonic()
        # HTTP/1.0 has no chunked encoding (RFC 9112, 6.1), so a response cannot start before its
        # length is known.
        self._has_heartbeat = scope.get("http_version") != "1.0"
        page = await self._feed.page_after(self._cursor, asked_at)
        if page.is_empty and self._wait:
            with self._feed.listening() as listener:
                watching = asyncio.create_task(_watch_disconnect(receive, listener))
                try:
                    await self._wait_for_change(listener, asked_at, send)
                finally:
                    watching.cancel()
            if listener.is_disconnected:
                raise ClientDisconnect
            page = await self._page_after_waiting(page, asked_at)
        if not self._has_started:
            length = (b"content-length", b"%d" % len(page.body))
            await send(_response_start(_JSON, length))
        await send({"type": "http.response.body", "body": page.body})

    async def _wait_for_change(self, listener: Listener, asked_at: float, send: Send) -> None:
        feed, head = self._feed, self._feed.cache.head
        deadline = asked_at + self._wait
        heartbeat_at = asked_at + HEARTBEAT_SECONDS
        feed.wake_at(min(heartbeat_at, deadline), listener)
        while feed.cache.head == head and not listener.is_disconnected and not feed.is_stopping:
            now = monotonic()
            if now >= deadline:
                return
            if now >= heartbeat_at:
                heartbeat_at += HEARTBEAT_SECONDS
                feed.wake_at(min(heartbeat_at, deadline), listener)
                if feed.is_fresh and self._has_heartbeat:
                    await self._send_heartbeat(send)
            await listener.wait()

    async def _send_heartbeat(self, send: Send) -> None:
        if not self._has_started:
            self._has_started = True
            await send(_response_start(_JSON, _UNBUFFERED))
        await send({"type": "http.response.body", "body": b" ", "more_body": True})

    async def _page_after_waiting(self, empty: Page, asked_at: float) -> Page:
        """After the first heartbeat, the status has been sent and an error cannot be. The listener
        gets the empty page instead, sends the next request at once, and gets the error then."""
        try:
            return await self._feed.page_after(self._cursor, asked_at)
        except ApiError:
            if self._has_started:
                return empty
            raise


def _response_start(*headers: tuple[bytes, bytes]) -> dict[str, object]:
    return {"type": "http.response.start", "status": 200, "headers": list(headers)}


async def _watch_disconnect(receive: Receive, listener: Listener) -> None:
    with suppress(ApiError):  # a body that is too large
        while (await receive())["type"] != "http.disconnect":
            pass
    listener.is_disconnected = True
    listener.wake()
