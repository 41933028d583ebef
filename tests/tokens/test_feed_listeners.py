"""How listeners wait, get heartbeats and are woken, without a database."""

import asyncio
import json
import logging
import time
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from starlette.requests import ClientDisconnect

from app.errors import ContentTooLargeError, UnavailableError
from app.tokens.revocations import cache
from app.tokens.revocations import feed as feed_module
from app.tokens.revocations.entries import FeedEntry, Head
from app.tokens.revocations.errors import CursorOfAnotherHistoryError
from app.tokens.revocations.feed import FeedResponse, Listener, RevocationFeed
from tests.support.waiting import until

NAME = "0123456789abcdef"


class Known(cache.RevocationCache):
    """Reads nothing by itself, and is fresh until a test says otherwise."""

    fresh = True

    def is_fresh(self) -> bool:
        return self.fresh

    async def wait_until_fresh(self, asked_at: float) -> bool:
        return self.fresh

    async def follow(self, stopping: asyncio.Event) -> None: ...

    def invalidate(self) -> None: ...

    def publish(self, position: int) -> None:
        entry = FeedEntry(position, 7, f"jti:{position}", time.time() + 60, 60.0)
        self._extend(Head(NAME, position, 7), [entry])


class Feed(RevocationFeed):
    def __init__(self) -> None:
        self.known = Known()
        self.known._extend(Head(NAME, 0, 0), [])
        self.refreshed = 0
        self.stopping = asyncio.Event()
        super().__init__(self.known, self._note, self.stopping)

    async def _note(self) -> None:
        self.refreshed += 1


@pytest.fixture
async def feed() -> AsyncIterator[Feed]:
    feed = Feed()
    yield feed
    feed.close()


@pytest.fixture
def no_heartbeats(monkeypatch: pytest.MonkeyPatch) -> None:
    """A listener wakes only when the feed wakes it."""
    monkeypatch.setattr(feed_module, "HEARTBEAT_SECONDS", 3600.0)


class Client:
    """Waits for half a minute, if nothing happens."""

    def __init__(self, feed: Feed, wait: float = 30) -> None:
        self.sent: list[dict[str, Any]] = []
        self.heartbeats: list[float] = []  # when each one was sent
        self.received: asyncio.Queue[dict[str, Any] | Exception] = asyncio.Queue()
        self._response = FeedResponse(feed, feed.known.head.cursor, wait)

    async def receive(self) -> Any:
        message = await self.received.get()
        if isinstance(message, Exception):
            raise message
        return message

    async def send(self, message: Any) -> None:
        self.sent.append(message)
        if message.get("more_body"):
            self.heartbeats.append(time.monotonic())

    async def listen(self, http_version: str = "1.1") -> None:
        """Returns once it has its response."""
        async with asyncio.timeout(10):
            await self._response({"http_version": http_version}, self.receive, self.send)

    @asynccontextmanager
    async def listening(self, feed: Feed) -> AsyncIterator["asyncio.Task[None]"]:
        """Inside the block it waits. After the block it has its response, or the error."""
        async with asyncio.timeout(10):
            others = len(feed._listeners)
            task = asyncio.create_task(self._response({}, self.receive, self.send))
            await until(lambda: len(feed._listeners) > others and feed.is_fresh)
            await asyncio.sleep(0)
            yield task
            await asyncio.wait([task])

    def body(self) -> bytes:
        return b"".join(message.get("body", b"") for message in self.sent)

    def values(self) -> list[str]:
        page = json.loads(self.body())
        return [entry["value"] for entry in page["revocations"]]


@pytest.mark.usefixtures("no_heartbeats")
async def test_a_revocation_ends_the_wait(feed: Feed) -> None:
    before = asyncio.all_tasks()
    first, second = Client(feed), Client(feed)
    async with first.listening(feed):
        ticker = feed._ticker
        async with second.listening(feed):
            assert feed._ticker is ticker  # one for all listeners
            feed.known.publish(1)
    assert first.values() == second.values() == ["jti:1"]
    assert feed.refreshed == 4  # before each look
    await until(lambda: not asyncio.all_tasks() - before)
    assert not feed._wake_ups  # no wake-up is left for the end of their waits
    later = Client(feed)
    async with later.listening(feed):
        feed.known.publish(2)
    assert later.values() == ["jti:2"]


@pytest.mark.usefixtures("no_heartbeats")
async def test_the_wait_ends_when_the_service_stops(feed: Feed) -> None:
    client = Client(feed)
    async with client.listening(feed):
        feed.stopping.set()
    assert client.values() == []


@pytest.mark.usefixtures("no_heartbeats")
@pytest.mark.parametrize(
    "message",
    [{"type": "http.disconnect"}, ContentTooLargeError()],
    ids=["it hangs up", "its body is too large"],
)
async def test_a_client_that_can_get_no_response_stops_listening(
    feed: Feed, message: dict[str, Any] | Exception
) -> None:
    client = Client(feed)
    async with client.listening(feed) as response:
        client.received.put_nowait({"type": "http.request"})
        client.received.put_nowait(message)
    with pytest.raises(ClientDisconnect):
        await response
    assert client.sent == []
    assert not feed._listeners


@pytest.mark.usefixtures("no_heartbeats")
async def test_before_the_first_heartbeat_a_wait_can_end_with_an_error(feed: Feed) -> None:
    client = Client(feed)
    async with client.listening(feed) as response:
        feed.known.fresh = False
        feed.stopping.set()
    with pytest.raises(UnavailableError):
        await response
    assert client.sent == []


async def test_after_the_first_heartbeat_a_wait_ends_with_an_empty_page(
    feed: Feed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feed_module, "HEARTBEAT_SECONDS", 0.05)
    client = Client(feed)
    async with client.listening(feed):
        # Also after the second one, which comes as late after the first as that after the request.
        await until(lambda: len(client.sent) >= 3)
        feed.known.fresh = False
        feed.stopping.set()
    assert client.values() == []


async def test_heartbeats_are_sent_while_a_listener_waits_and_never_too_soon(
    feed: Feed, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The n-th one vouches for n times HEARTBEAT_SECONDS, so it must not be sent before."""
    monkeypatch.setattr(feed_module, "HEARTBEAT_SECONDS", 0.1)
    client, asked_at = Client(feed, wait=0.5), time.monotonic()
    await client.listen()
    assert 1 <= len(client.heartbeats) <= 5
    for number, at in enumerate(client.heartbeats, start=1):
        assert at >= asked_at + number * 0.1
    page = {"revocations": [], "cursor": feed.known.head.cursor, "more": False}
    spaces = b" " * len(client.heartbeats)
    assert client.body() == spaces + json.dumps(page, separators=(",", ":")).encode()
    types = [message["type"] for message in client.sent]
    assert types == ["http.response.start", *["http.response.body"] * (len(spaces) + 1)]
    headers = dict(client.sent[0]["headers"])
    assert headers[b"content-type"] == b"application/json"
    assert headers[b"x-accel-buffering"] == b"no"
    assert b"content-length" not in headers


async def test_http_1_0_gets_no_heartbeats_but_a_length(
    feed: Feed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feed_module, "HEARTBEAT_SECONDS", 0.05)
    client = Client(feed, wait=0.2)
    await client.listen(http_version="1.0")
    assert client.heartbeats == []
    length = dict(client.sent[0]["headers"])[b"content-length"]
    assert int(length) == len(client.body())


async def test_no_heartbeat_is_sent_while_revocations_may_be_missing(
    feed: Feed, monkeypatch: pytest.MonkeyPatch, due: list[float]
) -> None:
    monkeypatch.setattr(feed_module, "HEARTBEAT_SECONDS", 0.05)
    client = Client(feed)
    async with client.listening(feed):
        await until(lambda: bool(client.heartbeats))
        feed.known.fresh = False
        await until(lambda: not feed.is_fresh)
        sent, decided = len(client.heartbeats), len(due)
        await until(lambda: len(due) >= decided + 3)
        assert len(client.heartbeats) == sent
        feed.known.fresh = True
        await until(lambda: len(client.heartbeats) > sent)
        feed.stopping.set()


@pytest.fixture
def due(feed: Feed, monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """When listeners have asked to be woken: for the next heartbeat, just before it is decided
    whether this one is sent."""
    due: list[float] = []
    wake_at = feed.wake_at

    def note(moment: float, listener: Listener) -> None:
        due.append(moment)
        wake_at(moment, listener)

    monkeypatch.setattr(feed, "wake_at", note)
    return due


@pytest.mark.parametrize("seconds", [0.2, 3600.0])
async def test_the_end_of_the_wait_comes_before_a_later_heartbeat(
    feed: Feed, monkeypatch: pytest.MonkeyPatch, due: list[float], seconds: float
) -> None:
    monkeypatch.setattr(feed_module, "HEARTBEAT_SECONDS", seconds)
    await Client(feed, wait=0.3).listen()
    assert due[-1] - due[0] < 0.15


async def test_an_event_loop_that_stood_still_leaves_no_listener_behind(
    feed: Feed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feed_module, "HEARTBEAT_SECONDS", 0.05)
    client = Client(feed, wait=0.5)
    async with client.listening(feed):
        await until(lambda: bool(client.heartbeats))
        time.sleep(0.3)  # noqa: ASYNC251 - that is the point
    assert client.values() == []


@pytest.mark.usefixtures("no_heartbeats")
async def test_a_revocation_between_the_query_and_the_wait_is_not_missed(feed: Feed) -> None:
    client = Client(feed)
    waiting = asyncio.create_task(client.listen())
    asyncio.get_running_loop().call_soon(feed.known.publish, 1)
    await waiting
    assert client.values() == ["jti:1"]


async def test_a_listener_may_be_woken_before_it_waits_and_more_than_once() -> None:
    listener = Listener()
    listener.wake()
    waiting = listener.wait()
    assert not waiting.done()
    listener.wake()
    listener.wake()
    assert waiting.done()


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The monotonic clock of a machine that has run for a month."""
    now = [2_592_000.013]
    monkeypatch.setattr(feed_module, "monotonic", lambda: now[0])
    return now


async def test_the_ticks_before_the_first_listener_are_not_counted_one_by_one(
    feed: Feed, now: list[float]
) -> None:
    with feed.listening():
        assert feed._tick_number == int(now[0] / 0.025)


async def test_each_tick_is_handled_once(feed: Feed, now: list[float]) -> None:
    handled: list[int] = []

    class WakeUps(defaultdict[int, list[Listener]]):
        def pop(self, number: int, *_: object) -> Any:
            handled.append(number)
            assert len(handled) <= 7, "not all ticks since the machine started"
            return ()

    feed._wake_ups = WakeUps(list)
    with feed.listening():
        first = feed._tick_number
        for _ in range(3):
            now[0] += 0.05
            await until(lambda: feed._tick_number == int(now[0] / 0.025))
    feed.close()
    assert handled == list(range(first + 1, first + 7))


async def test_a_listener_is_woken_at_the_first_tick_after_its_moment(
    feed: Feed, now: list[float]
) -> None:
    listener = Listener()
    with feed.listening():
        for moment in (now[0] + 0.01, now[0] + 30, now[0] - 30):
            feed.wake_at(moment, listener)
    first = feed._tick_number
    assert sorted(feed._wake_ups) == [first + 1, first + 1201]
    assert min(feed._wake_ups) * 0.025 > now[0] + 0.01


async def test_a_thousand_listeners_are_woken_before_others_have_a_turn(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    listeners = [Listener() for _ in range(2_500)]
    waits = [listener.wait() for listener in listeners]
    turns: list[tuple[float, int]] = []

    async def sleep(seconds: float) -> None:
        turns.append((seconds, sum(wait.done() for wait in waits)))

    monkeypatch.setattr("app.tokens.revocations.feed.asyncio.sleep", sleep)
    await feed_module._wake(listeners)
    assert turns == [(0, 1_000), (0, 2_000)]
    assert all(wait.done() for wait in waits)


async def test_a_closed_feed_stops_ticking(feed: Feed) -> None:
    feed.close()  # before there was a listener
    with feed.listening():
        ticker = feed._ticker
        assert ticker
        feed.close()
        await asyncio.wait([ticker])
        assert ticker.cancelled()


@pytest.mark.parametrize("is_there", [True, False], ids=["published", "lost"])
async def test_a_cursor_that_is_ahead_is_looked_up_after_one_more_query(
    feed: Feed, is_there: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """Another worker has queried the database a moment later."""
    known, asked_at = feed.known, time.monotonic()
    known._queried_at = asked_at  # sent before the request arrived
    async with asyncio.timeout(10):
        asking = asyncio.create_task(feed.page_after(Head(NAME, 1, 7).cursor, asked_at))
        await asyncio.sleep(2 * cache.POLL_SECONDS)
        assert not asking.done()
        refreshed = feed.refreshed
        if is_there:
            known.publish(1)
        known._queried_at = asked_at + 0.001
        if is_there:
            assert (await asking).is_empty
        else:
            with pytest.raises(CursorOfAnotherHistoryError):
                await asking
    assert feed.refreshed == refreshed + 1  # keys are read before a revoked one is listed
    assert len(caplog.records) == (0 if is_there else 1)


async def test_without_another_query_a_cursor_that_is_ahead_gets_503_and_no_warning(
    feed: Feed, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(cache, "_QUERY_TIMEOUT_SECONDS", 0.01)
    with pytest.raises(UnavailableError):
        await feed.page_after(Head(NAME, 1, 7).cursor, time.monotonic())
    assert caplog.records == []


async def test_a_revocation_that_the_database_lost_causes_one_warning_an_hour(
    feed: Feed, now: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    feed.known._queried_at = float("inf")
    warned = []
    for seconds in (0, 3_599, 1):
        now[0] += seconds
        with pytest.raises(CursorOfAnotherHistoryError):
            await feed.page_after(Head(NAME, 9, 7).cursor, now[0])
        warned.append(len(caplog.records))
    assert warned == [1, 1, 2]
    assert {(each.name, each.levelno) for each in caplog.records} == {
        ("hourpass.revocations", logging.WARNING)
    }


def test_a_listener_gets_a_revocation_within_a_tenth_of_a_second() -> None:
    """As the description of the feed says: after the next poll and the next tick."""
    assert cache.POLL_SECONDS + feed_module.TICK_SECONDS < 0.1
