"""The feed of revocations, for APIs that verify tokens themselves: in order, without a gap, at once
for listeners that wait, and no longer than what can still matter."""

import asyncio
import json
import logging
import random
import time
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from httpx import AsyncClient
from sqlalchemy import insert, select, text, update
from sqlalchemy.ext.asyncio import create_async_engine

from app.context import RequestContext
from app.database.engine import Database, begin_write
from app.database.job_lock import LOCK_PERIOD
from app.database.sqlite_driver import SqliteConnector
from app.main import create_app
from app.retention.service import Retention
from app.server.connections import TimeLimits
from app.settings import Settings
from app.tokens.revocations import cache, entries
from app.tokens.revocations import feed as feed_module
from app.tokens.revocations.entries import PAGE_SIZE
from app.tokens.revocations.errors import CursorOfAnotherHistoryError, CursorUnknownError
from app.tokens.revocations.feed import FeedResponse, Listener, RevocationFeed
from app.tokens.revocations.models import Feed, Revocation
from app.tokens.revocations.service import CLOCK_MARGIN, Revocations
from app.tokens.signing_keys.keys import CLOCK_SKEW
from tests.support.apps import client_of, started_client
from tests.support.limited_service import limited_service, wait_for
from tests.support.markers import on_postgresql, on_sqlite
from tests.support.servers import served
from tests.support.settings import Clock, make_settings
from tests.support.users import (
    LANCELOT,
    all_tokens_like,
    assert_problem,
    bearer,
    log_in,
    register,
    revoked,
    said_in,
)
from tests.support.waiting import until

LIFETIME = timedelta(minutes=60)
NOW = Clock()()
SECOND = timedelta(seconds=1)


async def publish(app: FastAPI, *values: str, lifetime: timedelta = LIFETIME) -> None:
    """As the operations do it."""
    async with app.state.database.session() as session:
        await begin_write(session)
        for value in values:
            await Revocations(lifetime, app.state.revocation_cache).publish(
                RequestContext(session, NOW), value
            )
        await session.commit()


async def expire(database: Database, value: str) -> None:
    """Make it look as old as it can get."""
    async with database.session() as session:
        await begin_write(session)
        is_it = Revocation.value == value
        past = datetime.now(UTC) - SECOND
        await session.execute(update(Revocation).where(is_it).values(expires_at=past))
        await session.commit()


async def page_after(client: AsyncClient, cursor: str | None, wait: int = 0) -> dict[str, Any]:
    params: dict[str, str | int] = {"wait": wait, **({"after": cursor} if cursor else {})}
    response = await client.get("/revocations", params=params)
    assert response.status_code == 200, response.text
    page: dict[str, Any] = response.json()
    return page


def values(page: dict[str, Any]) -> list[str]:
    return [entry["value"] for entry in page["revocations"]]


@asynccontextmanager
async def started(settings: Settings, clock: Clock) -> AsyncIterator[FastAPI]:
    app = create_app(settings, clock, clock)
    async with app.router.lifespan_context(app):
        yield app


@asynccontextmanager
async def listening(
    client: AsyncClient, feed: RevocationFeed, cursor: str, listeners: int = 1
) -> AsyncIterator[Sequence["asyncio.Task[dict[str, Any]]"]]:
    """Listeners that are certain to wait already."""
    async with asyncio.timeout(15), asyncio.TaskGroup() as group:
        tasks = [group.create_task(page_after(client, cursor, 20)) for _ in range(listeners)]
        while len(feed._listeners) < listeners:  # noqa: ASYNC110 - it has no event for this
            await asyncio.sleep(0.01)
        yield tasks


async def test_an_empty_feed_has_a_cursor_from_which_everything_is_heard_in_order(
    app: FastAPI, client: AsyncClient
) -> None:
    beginning = await page_after(client, None)
    assert set(beginning) == {"revocations", "cursor", "more"}
    assert (beginning["revocations"], beginning["more"]) == ([], False)
    cursor = beginning["cursor"]
    for number in range(3):
        await publish(app, f"jti:{number}")
        page = await page_after(client, cursor)
        assert values(page) == [f"jti:{number}"]
        cursor = page["cursor"]
    assert values(await page_after(client, cursor)) == []
    # Who was away goes on from where it was, and who is new begins without a cursor.
    everything = ["jti:0", "jti:1", "jti:2"]
    assert values(await page_after(client, beginning["cursor"])) == everything
    assert await revoked(client) == everything


async def test_a_long_feed_comes_in_pages(app: FastAPI, client: AsyncClient) -> None:
    published = [f"jti:{number}" for number in range(PAGE_SIZE + 3)]
    await publish(app, *published)
    first = await page_after(client, None)
    second = await page_after(client, first["cursor"])
    assert (len(first["revocations"]), first["more"]) == (PAGE_SIZE, True)
    assert (len(second["revocations"]), second["more"]) == (3, False)
    assert values(first) + values(second) == published


async def test_expired_invitations_are_no_longer_listed(
    settings: Settings, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with started(settings, clock) as app, client_of(app) as client:
        await publish(app, "jti:old", "jti:new")
        assert await revoked(client) == ["jti:old", "jti:new"]
        await expire(app.state.database, "jti:old")
    async with started(settings, clock) as app, client_of(app) as client:
        assert await revoked(client) == ["jti:new"]
        kept_for = (LIFETIME + CLOCK_SKEW + CLOCK_MARGIN).total_seconds()
        for span, listed in [(kept_for - 60, ["jti:new"]), (kept_for, [])]:
            for module in (cache, feed_module):
                monkeypatch.setattr(module, "monotonic", lambda span=span: time.monotonic() + span)
            assert await revoked(client) == listed


async def test_a_cursor_of_another_or_a_restored_database_says_to_start_over(
    app: FastAPI, client: AsyncClient
) -> None:
    await publish(app, "jti:1", "jti:2", "jti:3")
    pages = [await page_after(client, None)]
    name, position, mark = pages[0]["cursor"].split(".")
    assert (position, len(mark)) == ("3", 16)
    for cursor in (
        "garbage",
        f"{name}.3",
        f"{name}.-1.{mark}",
        f"{name}..{mark}",
        f"{name}.03.{mark}",
        f"{name}.3.{mark} ",
        f"{name}.٣.{mark}",
        f"{name}.{'9' * 18}.{mark}",
        f"{name}.4.{mark}",  # ahead: the database is older than the cursor
        f"{name}.2.{mark}",  # the mark is another revocation's
        f"{name}.3.{'0' * 16}",
        f"{name}.3.{mark.upper()}x",
        f"0123456789abcdef.3.{mark}",  # another feed's
        "\0",
    ):
        response = await client.get("/revocations", params={"after": cursor})
        assert_problem(response, 410, "cursor_unknown")
        response = await client.get("/revocations", params={"after": cursor, "wait": 20})
        assert_problem(response, 410, "cursor_unknown")
    everything = ["jti:1", "jti:2", "jti:3"]
    assert values(await page_after(client, f"{name}.0.{'0' * 16}")) == everything


async def test_a_cursor_whose_revocation_was_purged_says_to_start_over_unless_it_is_the_last(
    settings: Settings, clock: Clock
) -> None:
    async with started(settings, clock) as app, client_of(app) as client:
        await publish(app, "jti:1")
        first = (await page_after(client, None))["cursor"]
        await publish(app, "jti:2")
        last = (await page_after(client, first))["cursor"]
        for value in ("jti:1", "jti:2"):
            await expire(app.state.database, value)
        clock.now += 2 * LOCK_PERIOD
        assert await Retention(app.state.database, settings).run_once()
        async with app.state.database.session() as session:
            assert (await session.scalars(select(Revocation.value))).all() == ["jti:2"]
    async with started(settings, clock) as app, client_of(app) as client:
        assert await page_after(client, last) == {"revocations": [], "cursor": last, "more": False}
        response = await client.get("/revocations", params={"after": first})
        assert_problem(response, 410, "cursor_unknown")


@on_sqlite
@pytest.mark.parametrize(
    "params",
    [
        {"wait": 31},
        {"wait": -1},
        {"wait": "long"},
        {"wait": "١"},  # noqa: RUF001 - the Arabic digit
        {"wait": ""},
        {"after": "a" * 101},
    ],
    ids=str,
)
async def test_a_listener_waits_thirty_seconds_at_most(
    client: AsyncClient, params: dict[str, str | int]
) -> None:
    response = await client.get("/revocations", params=params)
    assert_problem(response, 422, "invalid_request")


async def test_a_listener_gets_the_revocations_of_its_own_and_another_instance(
    app: FastAPI, client: AsyncClient, settings: Settings, clock: Clock
) -> None:
    await register(client, LANCELOT)
    cursor = (await page_after(client, None))["cursor"]
    async with started_client(settings, clock) as there:
        for caller in (client, there):
            token = await log_in(caller, LANCELOT)
            async with listening(client, app.state.revocation_feed, cursor, 3) as listeners:
                await caller.post("/me/logout-everywhere", headers=bearer(token))
            for listener in listeners:
                assert values(listener.result()) == [all_tokens_like(token)]
            cursor = listener.result()["cursor"]


async def test_a_cursor_of_one_instance_is_known_to_another_at_once(
    app: FastAPI, client: AsyncClient, settings: Settings, clock: Clock
) -> None:
    """A load balancer leads one listener to all instances. On PostgreSQL, each polls by itself."""
    async with started_client(settings, clock) as there:
        for number in range(5):
            await publish(app, f"jti:{number}")
            cursor = (await page_after(client, None))["cursor"]
            assert values(await page_after(there, cursor)) == []


async def test_without_revocations_the_answer_is_empty_when_the_wait_ends(
    client: AsyncClient,
) -> None:
    cursor = (await page_after(client, None))["cursor"]
    page = await page_after(client, cursor, wait=1)
    assert page == {"revocations": [], "cursor": cursor, "more": False}


async def test_a_waiting_listener_holds_no_database_connection(
    settings: Settings, clock: Clock
) -> None:
    only_one = make_settings(settings.database_url, database_pool_size=1)
    app = create_app(only_one, clock, clock)
    async with app.router.lifespan_context(app), client_of(app) as client:
        await register(client, LANCELOT)
        cursor = (await page_after(client, None))["cursor"]
        async with listening(client, app.state.revocation_feed, cursor, 20) as listeners:
            token = await log_in(client, LANCELOT)
            await client.post("/me/logout-everywhere", headers=bearer(token))
        for listener in listeners:
            assert values(listener.result()) == [all_tokens_like(token)]


async def test_one_listener_too_many_gets_a_retry_after(app: FastAPI, client: AsyncClient) -> None:
    app.state.revocation_feed.max_listeners = 2
    cursor = (await page_after(client, None))["cursor"]
    async with listening(client, app.state.revocation_feed, cursor, 2):
        response = await client.get("/revocations", params={"after": cursor, "wait": 20})
        assert_problem(response, 503, "temporarily_unavailable")
        assert response.headers["retry-after"] == "1"
        assert values(await page_after(client, cursor)) == [], "asking without waiting goes on"
        await publish(app, "jti:1")
    assert values(await page_after(client, cursor, wait=1)) == ["jti:1"]
    assert not app.state.revocation_feed._listeners


async def test_listeners_wait_on_while_the_database_is_in_trouble(
    app: FastAPI, client: AsyncClient, database: Database
) -> None:
    await publish(app, "jti:0")
    cursor = (await page_after(client, None))["cursor"]
    async with listening(client, app.state.revocation_feed, cursor) as (listener,):
        async with database.session() as session:
            await session.execute(text("ALTER TABLE revocation_feed RENAME TO lost"))
            await session.commit()
            await until(lambda: not app.state.revocation_cache.is_fresh())
            response = await client.get("/revocations", params={"after": cursor})
            assert_problem(response, 503, "temporarily_unavailable")
            await session.execute(text("ALTER TABLE lost RENAME TO revocation_feed"))
            await session.commit()
        await publish(app, "jti:1")
    assert values(listener.result()) == ["jti:1"]


async def test_no_reader_misses_one_of_several_simultaneous_revocations(
    settings: Settings, client: AsyncClient, database: Database
) -> None:
    writers, deeds = 8, 8
    elsewhere = Database(settings)

    async def write(writer: int) -> None:
        for deed in range(deeds):
            async with (elsewhere if writer % 2 else database).session() as session:
                await begin_write(session)
                for part in range(1 + writer % 3):
                    value = f"jti:{writer}-{deed}-{part}"
                    await Revocations(LIFETIME).publish(RequestContext(session, NOW), value)
                    # However long it takes until the commit, nobody reads past it.
                    await asyncio.sleep(random.random() / 500)
                await session.commit()

    async def follow(count: int) -> list[str]:
        heard: list[str] = []
        cursor: str | None = None
        while len(heard) < count:
            page = await page_after(client, cursor)
            heard += values(page)
            cursor = page["cursor"]
            await asyncio.sleep(0)
        return heard

    count = sum(deeds * (1 + writer % 3) for writer in range(writers))
    try:
        async with asyncio.timeout(30):
            async with asyncio.TaskGroup() as group:
                reader = group.create_task(follow(count))
                for writer in range(writers):
                    group.create_task(write(writer))
    finally:
        await elsewhere.close()
    heard = reader.result()
    assert len(heard) == len(set(heard)) == count
    assert await revoked(client) == heard


def test_a_service_that_stops_answers_its_listeners_at_once(
    sqlite_template: Path, tmp_path: Path
) -> None:
    with ThreadPoolExecutor(5) as pool:
        with limited_service(sqlite_template, tmp_path, TimeLimits()) as service:
            feed = f"{service.base_url}/revocations"
            query: dict[str, str | int] = {"after": httpx.get(feed).json()["cursor"], "wait": 30}
            ask = partial(httpx.get, feed, params=query, timeout=60)
            waiting = [pool.submit(ask) for _ in range(5)]
            wait_for(lambda: len(service.app.state.revocation_feed._listeners) == 5)
            asked_to_end = time.monotonic()
        assert time.monotonic() - asked_to_end < 30  # the end of their `wait`
        for answer in waiting:
            assert answer.result().json()["revocations"] == []


class Recorder:
    """An ASGI client that never sends and never leaves, and when it got each message."""

    def __init__(self) -> None:
        self.messages: list[tuple[float, Any]] = []

    async def receive(self) -> Any:
        await asyncio.Event().wait()

    async def send(self, message: Any) -> None:
        self.messages.append((time.monotonic(), message))

    @property
    def heartbeats(self) -> list[float]:
        return [at for at, message in self.messages if message.get("more_body")]

    def body(self) -> bytes:
        return b"".join(message.get("body", b"") for _, message in self.messages)


async def test_while_an_answer_is_held_back_heartbeats_go_out_never_too_soon(
    app: FastAPI, client: AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The n-th one vouches for n times HEARTBEAT_SECONDS, so it must not come before."""
    monkeypatch.setattr(feed_module, "HEARTBEAT_SECONDS", 0.2)
    cursor = (await page_after(client, None))["cursor"]
    recorder, asked_at = Recorder(), time.monotonic()
    await FeedResponse(app.state.revocation_feed, cursor, 1)({}, recorder.receive, recorder.send)
    assert recorder.heartbeats
    for number, at in enumerate(recorder.heartbeats, start=1):
        assert at >= asked_at + number * 0.2
    assert len(recorder.heartbeats) <= 5
    page = {"revocations": [], "cursor": cursor, "more": False}
    spaces = b" " * len(recorder.heartbeats)
    assert recorder.body() == spaces + json.dumps(page, separators=(",", ":")).encode()
    types = [message["type"] for _, message in recorder.messages]
    assert types == ["http.response.start", *["http.response.body"] * (len(spaces) + 1)]
    head = recorder.messages[0][1]
    assert (b"content-type", b"application/json") in head["headers"]
    assert (b"x-accel-buffering", b"no") in head["headers"]
    assert b"content-length" not in dict(head["headers"])


async def test_after_the_feed_was_renamed_old_cursors_are_unknown_and_new_ones_count(
    app: FastAPI, client: AsyncClient, database: Database
) -> None:
    await publish(app, "jti:1")
    old = await page_after(client, None)
    async with database.session() as session:
        await begin_write(session)
        await Revocations(LIFETIME).rename_feed(RequestContext(session, NOW))
        await session.commit()
    await until(lambda: cache_of(app).head.name != old["cursor"].partition(".")[0])
    response = await client.get("/revocations", params={"after": old["cursor"]})
    assert_problem(response, 410, "cursor_unknown")
    new = await page_after(client, None)
    assert values(new) == ["jti:1"]
    assert values(await page_after(client, new["cursor"])) == []


async def test_existing_revocations_are_answered_at_once(app: FastAPI, client: AsyncClient) -> None:
    cursor = (await page_after(client, None))["cursor"]
    await publish(app, "jti:1")
    async with asyncio.timeout(15):
        assert values(await page_after(client, cursor, wait=30)) == ["jti:1"]


@pytest.mark.parametrize("seconds", [0.7, 3600.0])
async def test_the_end_of_the_wait_comes_before_a_later_heartbeat(
    app: FastAPI, client: AsyncClient, monkeypatch: pytest.MonkeyPatch, seconds: float
) -> None:
    monkeypatch.setattr(feed_module, "HEARTBEAT_SECONDS", seconds)
    cursor = (await page_after(client, None))["cursor"]
    recorder, feed = Recorder(), app.state.revocation_feed
    due: list[float] = []
    wake_at = feed.wake_at

    def note(moment: float, listener: Listener) -> None:
        due.append(moment)
        wake_at(moment, listener)

    monkeypatch.setattr(feed, "wake_at", note)
    async with asyncio.timeout(15):
        await FeedResponse(feed, cursor, 1)({}, recorder.receive, recorder.send)
    assert due[-1] - due[0] < 0.5


def test_the_numbers_that_the_readme_and_the_description_of_the_feed_give() -> None:
    numbers = (cache.FRESH_SECONDS, feed_module.HEARTBEAT_SECONDS, feed_module.MAX_WAIT_SECONDS)
    assert numbers == (0.1, 3, 30)
    assert cache.MAX_FRESH_SECONDS == 0.2
    assert feed_module.WARNING_SECONDS == 3600


async def test_a_cache_that_nobody_keeps_up_to_date_is_not_fresh(
    settings: Settings, clock: Clock
) -> None:
    async with started(settings, clock) as app:
        known = app.state.revocation_cache
        await until(known.is_fresh)
    await until(lambda: not known.is_fresh())


@on_postgresql
@pytest.mark.parametrize("table", ["revocation_feed", "revocations"])
async def test_a_poll_without_an_answer_times_out_and_closes_its_connection(
    app: FastAPI,
    database: Database,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    table: str,
) -> None:
    known = app.state.revocation_cache
    polled: list[Any] = []
    poll = known._poll

    async def note(driver: Any) -> None:
        polled.append(driver)
        await poll(driver)

    monkeypatch.setattr(known, "_poll", note)
    await until(lambda: bool(polled) and known.is_fresh())
    async with database.session() as session:
        await begin_write(session)
        await session.execute(text(f"LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE"))
        if table == "revocations":  # which is only read when the head has moved
            await session.execute(insert(Revocation), [row_at(1)])
            async with database.session() as another:
                await begin_write(another)
                await another.execute(update(Feed).values(position=1, mark=7))
                await another.commit()
        hung = polled[-1]
        await until(lambda: "Cannot poll revocations" in caplog.messages)
        await session.commit()
    await until(lambda: polled[-1] is not hung and known.is_fresh())
    assert hung.is_closed()


def row_at(position: int) -> dict[str, Any]:
    later = datetime.now(UTC) + timedelta(hours=1)
    return {"position": position, "value": "jti:1", "mark": 7 * position, "expires_at": later}


def test_times_of_sqlite_are_utc_whatever_the_zone_of_the_host(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with monkeypatch.context() as abroad:
        abroad.setenv("TZ", "Asia/Tokyo")
        time.tzset()
        try:
            read = cache._sqlite_entry((1, 7, "jti:1", "2026-11-23 12:00:00.000000", 5.0))
        finally:
            abroad.undo()
            time.tzset()
    assert read.expires_at == datetime(2026, 11, 23, 12, tzinfo=UTC).timestamp()


async def test_no_heartbeat_is_sent_while_revocations_may_be_missing(
    app: FastAPI, client: AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feed_module, "HEARTBEAT_SECONDS", 0.05)
    cursor = (await page_after(client, None))["cursor"]
    recorder, feed = Recorder(), app.state.revocation_feed
    due: list[float] = []
    wake_at = feed.wake_at

    def note(moment: float, listener: Listener) -> None:
        """For the next one, just before it is decided whether this one goes out."""
        due.append(moment)
        wake_at(moment, listener)

    monkeypatch.setattr(feed, "wake_at", note)
    waiting = asyncio.create_task(
        FeedResponse(feed, cursor, 30)({}, recorder.receive, recorder.send)
    )
    await until(lambda: bool(recorder.heartbeats))
    with monkeypatch.context() as stale:
        stale.setattr(app.state.revocation_cache, "is_fresh", lambda: False)
        await until(lambda: not feed.is_fresh)
        heartbeats, decided = len(recorder.heartbeats), len(due)
        await until(lambda: len(due) >= decided + 3)
        assert len(recorder.heartbeats) == heartbeats
    await until(lambda: len(recorder.heartbeats) > heartbeats)
    waiting.cancel()
    with suppress(asyncio.CancelledError):
        await waiting


async def test_a_disconnected_client_frees_its_place_at_once(
    settings: Settings, clock: Clock
) -> None:
    app = create_app(settings, clock, clock)
    with served(app) as base_url:
        app.state.revocation_feed.max_listeners = 20
        address = httpx.URL(base_url)
        async with AsyncClient(base_url=base_url) as client:
            cursor = (await page_after(client, None))["cursor"]
        request = f"GET /revocations?wait=20&after={cursor} HTTP/1.1\r\nHost: x\r\n\r\n".encode()

        async def listen_and_hang_up() -> None:
            _, writer = await asyncio.open_connection(address.host, address.port)
            writer.write(request)
            await writer.drain()
            writer.close()
            await writer.wait_closed()

        for _ in range(5):
            await asyncio.gather(*(listen_and_hang_up() for _ in range(20)))
        await until(lambda: not app.state.revocation_feed._listeners)
        query = {"after": cursor, "wait": 1}
        async with AsyncClient(base_url=base_url) as client, asyncio.timeout(10):
            # Requests that were still on their way take places for a moment.
            while (  # noqa: ASYNC110 - nothing tells when they are gone
                answer := await client.get("/revocations", params=query)
            ).status_code == 503:
                await asyncio.sleep(0.05)
        assert values(answer.json()) == []


async def test_pages_are_rendered_once(
    app: FastAPI, client: AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    await publish(app, *(f"jti:{number}" for number in range(PAGE_SIZE + 1)))
    rendered = []
    render = entries.FeedEntries._render

    def count(feed: entries.FeedEntries, start: int) -> entries.Page:
        rendered.append(start)
        return render(feed, start)

    monkeypatch.setattr(entries.FeedEntries, "_render", count)
    first = await page_after(client, None)
    last = await page_after(client, first["cursor"])
    for _ in range(3):
        assert await page_after(client, None) == first
        assert await page_after(client, first["cursor"]) == last
    assert rendered == [0, PAGE_SIZE]
    await publish(app, "jti:next")
    assert values(await page_after(client, first["cursor"]))[-1] == "jti:next"
    assert await page_after(client, None) == first, "a full page stays as it is"
    assert rendered == [0, PAGE_SIZE, PAGE_SIZE]


async def test_rendered_pages_take_a_bounded_place(
    app: FastAPI, client: AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(entries, "MAX_OTHER_PAGES", 3)
    cursors = []
    for number in range(6):
        await publish(app, f"jti:{number}")
        cursors.append((await page_after(client, None))["cursor"])
    for number, cursor in enumerate(cursors):
        assert len(values(await page_after(client, cursor))) == 5 - number
        assert len(app.state.revocation_cache.entries._other_pages) <= 3


async def test_a_feed_of_many_batches_is_read_to_its_end(settings: Settings, clock: Clock) -> None:
    """More than one query may bring, at a start and when they are added later."""
    batch = 2 * cache._BATCH + 1
    async with started(settings, clock) as app, client_of(app) as client:
        for first in (1, batch + 1):
            await insert_revocations(app.state.database, first, batch)
            last = first + batch - 1
            await until(partial(has_read, app, last))
            assert len(cache_of(app).entries._positions) == last
    async with started(settings, clock) as app, client_of(app) as client:
        await until(lambda: cache_of(app).is_fresh())
        listed, cursor, more = 0, None, True
        while more:
            page = await page_after(client, cursor)
            listed, cursor, more = listed + len(values(page)), page["cursor"], page["more"]
        assert listed == 2 * batch
        assert cache_of(app).history == 1


def has_read(app: FastAPI, position: int) -> bool:
    return cache_of(app).head.position == position


def cache_of(app: FastAPI) -> cache.RevocationCache:
    """As it is now: on SQLite it reads when it is asked."""
    known: cache.RevocationCache = app.state.revocation_cache
    known.is_fresh()
    return known


async def insert_revocations(database: Database, first: int, number: int) -> None:
    later = datetime.now(UTC) + timedelta(hours=1)
    rows = [
        {"position": position, "value": f"jti:{position}", "mark": position, "expires_at": later}
        for position in range(first, first + number)
    ]
    async with database.session() as session:
        await begin_write(session)
        await session.execute(insert(Revocation), rows)
        last = first + number - 1
        await session.execute(update(Feed).values(position=last, mark=last))
        await session.commit()


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [
        record.message
        for record in caplog.records
        if record.name == "hourpass.revocations" and record.levelno >= logging.WARNING
    ]


async def test_a_listener_that_heard_nothing_for_a_day_goes_on_from_its_cursor(
    settings: Settings,
    clock: Clock,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Though the revocation at its cursor has expired, for a worker that knew it and for one that
    starts only then."""
    async with started(settings, clock) as app, client_of(app) as client:
        await publish(app, "jti:1")
        cursor = (await page_after(client, None))["cursor"]
        kept_for = (LIFETIME + CLOCK_SKEW + CLOCK_MARGIN).total_seconds()
        for module in (cache, feed_module):
            monkeypatch.setattr(module, "monotonic", lambda: time.monotonic() + kept_for)
        await expire(app.state.database, "jti:1")
        assert await page_after(client, cursor) == {
            "revocations": [],
            "cursor": cursor,
            "more": False,
        }
        async with started(settings, clock) as another, client_of(another) as there:
            assert await revoked(there) == []
            await publish(app, "jti:2")
            assert values(await page_after(client, cursor)) == ["jti:2"]
            async with asyncio.timeout(10):
                while not values(page := await page_after(there, cursor)):  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
            assert values(page) == ["jti:2"]
        async with started(settings, clock) as later, client_of(later) as there:
            assert values(await page_after(there, cursor)) == ["jti:2"]
    assert warnings(caplog) == []


async def test_a_feed_without_marks_continues(
    settings: Settings, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    """What was published before migration 0010 has the mark 0, as the head has."""
    database = Database(settings)
    await insert_revocations(database, 1, 3)
    async with database.session() as session:
        await begin_write(session)
        await session.execute(update(Revocation).values(mark=0))
        await session.execute(update(Feed).values(mark=0))
        await session.commit()
    await database.close()
    async with started(settings, clock) as app, client_of(app) as client:
        cursor = (await page_after(client, None))["cursor"]
        await publish(app, "jti:new")
        assert values(await page_after(client, cursor)) == ["jti:new"]
    assert warnings(caplog) == []


async def test_an_event_loop_that_stood_still_leaves_no_listener_behind(
    app: FastAPI, client: AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feed_module, "HEARTBEAT_SECONDS", 0.05)
    cursor = (await page_after(client, None))["cursor"]
    recorder = Recorder()
    response = FeedResponse(app.state.revocation_feed, cursor, 1)
    async with asyncio.timeout(10):
        waiting = asyncio.create_task(response({}, recorder.receive, recorder.send))
        await until(lambda: bool(recorder.heartbeats))
        time.sleep(0.3)  # noqa: ASYNC251 - that is the point
        await waiting


async def test_a_revocation_between_the_query_and_the_wait_is_not_missed(
    app: FastAPI, client: AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feed_module, "HEARTBEAT_SECONDS", 3600)
    cursor = (await page_after(client, None))["cursor"]
    known, recorder = cache_of(app), Recorder()
    head = known.head
    entry = entries.FeedEntry(head.position + 1, 7, "jti:7", time.time() + 60, 60.0)
    moved = entries.Head(head.name, entry.position, entry.mark)
    # So that what is in the database does not take it back.
    monkeypatch.setattr(known, "is_fresh", lambda: True)
    monkeypatch.setattr(known, "_first_missing", lambda _: None)
    response = FeedResponse(app.state.revocation_feed, cursor, 30)
    async with asyncio.timeout(10):
        waiting = asyncio.create_task(response({}, recorder.receive, recorder.send))
        asyncio.get_running_loop().call_soon(known._extend, moved, [entry])
        await waiting
    assert b"jti:7" in recorder.body()


async def test_a_worker_that_revokes_all_the_time_goes_on_serving_the_feed(
    app: FastAPI, client: AsyncClient
) -> None:
    async def invalidate() -> None:
        while True:
            app.state.revocation_cache.invalidate()
            await asyncio.sleep(0)

    revoking = asyncio.create_task(invalidate())
    try:
        for _ in range(20):
            await page_after(client, None)
    finally:
        revoking.cancel()


async def test_http_1_0_gets_no_heartbeats_but_a_length(
    app: FastAPI, client: AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feed_module, "HEARTBEAT_SECONDS", 0.1)
    cursor = (await page_after(client, None))["cursor"]
    recorder = Recorder()
    response = FeedResponse(app.state.revocation_feed, cursor, 1)
    await response({"http_version": "1.0"}, recorder.receive, recorder.send)
    assert recorder.heartbeats == []
    length = dict(recorder.messages[0][1]["headers"])[b"content-length"]
    assert int(length) == len(recorder.body())


async def test_revocations_that_cannot_be_read_are_never_taken_for_read(
    app: FastAPI, database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    """The head of the feed can be read, and says that there is another one."""
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with AsyncClient(transport=transport, base_url="http://hourpass.example") as client:
        await register(client, LANCELOT)
        token = await log_in(client, LANCELOT)
        assert (await client.get(f"/token_status/{token}")).status_code == 200
        cursor = (await page_after(client, None))["cursor"]
        async with database.session() as session:  # another process's
            await begin_write(session)
            await Revocations(LIFETIME).publish(
                RequestContext(session, NOW), f"jti:{said_in(token)['jti']}"
            )
            await session.flush()
            await session.execute(text("ALTER TABLE revocations RENAME TO unreadable"))
            await session.commit()
        # What was read before counts for a tenth of a second on PostgreSQL.
        await until(lambda: not app.state.revocation_cache.is_fresh())
        async with asyncio.timeout(20):
            answers = 0
            # PostgreSQL is polled; SQLite is read by each request.
            while answers < 10 or (
                app.state.database.engine.dialect.name == "postgresql"
                and "Cannot poll revocations" not in caplog.messages
            ):
                assert (await client.get(f"/token_status/{token}")).status_code >= 500
                answers += 1
                await asyncio.sleep(0.01)
        refused = await client.get("/revocations", params={"after": cursor, "wait": 0})
        assert_problem(refused, 503, "temporarily_unavailable")

        async with database.session() as session:
            await begin_write(session)
            await session.execute(text("ALTER TABLE unreadable RENAME TO revocations"))
            await session.commit()
        await until(app.state.revocation_cache.is_fresh)
        assert_problem(await client.get(f"/token_status/{token}"), 401, "invalid_token")
        assert values(await page_after(client, cursor)) == [f"jti:{said_in(token)['jti']}"]


# What a worker keeps of the feed, without a database


class Known(cache.RevocationCache):
    """Reads nothing by itself."""

    def is_fresh(self) -> bool:
        return True

    async def follow(self, stopping: asyncio.Event) -> None: ...

    def invalidate(self) -> None: ...


def entry(position: int, seconds_left: float = 3600.0, value: str = "") -> entries.FeedEntry:
    return entries.FeedEntry(position, 7 * position, value or f"jti:{position}", 0.0, seconds_left)


def head(position: int, name: str = "0123456789abcdef", mark: int | None = None) -> entries.Head:
    return entries.Head(name, position, 7 * position if mark is None else mark)


def listed(feed: entries.FeedEntries, cursor: entries.Head | None, now: float) -> list[str]:
    return values(json.loads(feed.page_after(cursor and cursor.cursor, now).body))


def test_revocations_published_while_the_feed_is_read_are_listed_once() -> None:
    known = Known()
    assert known._apply(head(2), 0, [entry(1)]) == 1, "to read on from there"
    assert known.head == head(1)
    assert known._apply(head(2), 1, [entry(1), entry(2), entry(3)]) is None
    assert known.head == head(3), "the head was read before the third one was published"
    assert listed(known.entries, None, 0) == ["jti:1", "jti:2", "jti:3"]


def test_another_name_is_another_history_even_with_the_same_revocations(
    caplog: pytest.LogCaptureFixture,
) -> None:
    known, other = Known(), "f" * 16
    for number, name in enumerate((head(0).name, other), start=1):
        assert known._apply(head(0, name), 0, []) is None
        assert known.history == number
        assert len(warnings(caplog)) == number - 1
    assert known._apply(head(1, other), 0, [entry(1)]) is None
    assert known.history == number
    assert known._first_missing(head(1)) == 0
    assert known._apply(head(1), 0, [entry(1)]) is None
    assert known.history == number + 1


def test_while_another_history_is_read_nothing_is_fresh() -> None:
    known = cache.PostgresRevocationCache(
        create_async_engine("sqlite+aiosqlite://"), SqliteConnector("", 1)
    )
    known._apply(head(0), 0, [])
    known._queried_at = time.monotonic() + 3600  # however slow this machine is
    assert known.is_fresh()
    known._apply(head(0, "f" * 16), 0, [])
    assert not known.is_fresh()


def test_a_database_without_the_revocations_that_are_known_is_read_from_the_beginning() -> None:
    known = Known()
    known._apply(head(2), 0, [entry(1), entry(2)])
    assert known._apply(head(1), 2, []) == 0
    assert known._apply(head(2, mark=5), 2, [entry(2)._replace(mark=5)]) == 0


def test_a_revocation_is_in_force_until_it_expires_and_is_then_removed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    known, now = Known(), 1000.0
    monkeypatch.setattr(cache, "monotonic", lambda: now)
    published = [entry(1, 5), entry(2, 0), entry(3, 0.5), entry(4, 60, "twice")]
    known._apply(head(5), 0, [*published, entry(5, 10, "twice")])
    assert list(known._forget_at) == ["jti:1", "jti:3", "twice"]
    now += 5
    known._extend(head(5), [])
    assert not known.is_revoked(["jti:1", "jti:3"])
    assert known.is_revoked(["twice"])
    assert list(known._forget_at) == ["twice"]
    now += 54
    known._extend(head(5), [])
    assert known.is_revoked(["twice"])


def test_a_cursor_counts_as_long_as_no_listed_revocation_can_be_missing_after_it() -> None:
    feed = entries.FeedEntries()
    feed.extend(head(4), [entry(1, 0), entry(2, 0), entry(3, 0.5), entry(4)], 0)
    feed.extend(head(6), [entry(5, 0), entry(6)], 0)
    assert listed(feed, None, 0) == ["jti:3", "jti:4", "jti:6"]
    assert listed(feed, head(2), 0) == ["jti:3", "jti:4", "jti:6"]
    assert listed(feed, head(0, mark=9), 0) == ["jti:3", "jti:4", "jti:6"]
    assert listed(feed, head(6), 0) == []
    for cursor in (head(1), head(5), head(5, mark=6 * 7)):
        with pytest.raises(CursorUnknownError) as unknown:
            listed(feed, cursor, 0)
        assert unknown.type is CursorUnknownError
    for cursor in (head(7), head(4, mark=9)):
        with pytest.raises(CursorOfAnotherHistoryError):
            listed(feed, cursor, 0)


def test_the_cursor_of_a_feed_without_entries_counts() -> None:
    feed = entries.FeedEntries()
    feed.extend(head(0), [], 0)
    assert listed(feed, head(0), 0) == []
    with pytest.raises(CursorUnknownError):
        listed(feed, head(0, mark=9), 0)
    feed.extend(head(2), [], 0)
    feed.extend(head(3), [entry(3)], 0)
    assert listed(feed, head(2), 0) == ["jti:3"]


def test_expired_entries_are_dropped_once_a_minute() -> None:
    feed = entries.FeedEntries()
    feed.extend(head(4), [entry(1, 10), entry(2, 60), entry(3, 61), entry(4)], 0)
    assert listed(feed, None, 0) == ["jti:1", "jti:2", "jti:3", "jti:4"]
    assert listed(feed, head(1), 59) == ["jti:2", "jti:3", "jti:4"]
    assert listed(feed, head(2), 59) == ["jti:3", "jti:4"]
    assert listed(feed, None, 60) == ["jti:3", "jti:4"]
    assert listed(feed, head(2), 60) == ["jti:3", "jti:4"]
    assert listed(feed, head(3), 60) == ["jti:4"]
    assert listed(feed, head(4), 60) == []
    with pytest.raises(CursorUnknownError):
        listed(feed, head(1), 60)
    assert listed(feed, None, 119) == ["jti:3", "jti:4"]
    assert listed(feed, None, 120) == ["jti:4"]


def test_pages_of_new_listeners_and_those_in_between_are_kept_apart(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(entries, "PAGE_SIZE", 2)
    feed = entries.FeedEntries()
    feed.extend(head(5), [entry(number) for number in range(1, 6)], 0)
    for cursor, expected, following in (
        (None, ["jti:1", "jti:2"], head(2)),
        (head(1), ["jti:2", "jti:3"], head(3)),
        (head(2), ["jti:3", "jti:4"], head(4)),
        (head(4), ["jti:5"], head(5)),
    ):
        page = json.loads(feed.page_after(cursor and cursor.cursor, 0).body)
        assert (values(page), page["cursor"]) == (expected, following.cursor)
        assert page["more"] is (following != head(5))
    assert set(feed._pages) == {0, 2, 4}
    assert set(feed._other_pages) == {1}
