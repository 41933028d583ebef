"""The feed of revocations, for APIs that verify tokens themselves: in order, without a gap, at once
for listeners that wait, and no longer than what can still matter."""

import asyncio
import logging
import random
import time
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from httpx import AsyncClient
from sqlalchemy import select, text, update

from app.context import RequestContext
from app.database.engine import Database, begin_write
from app.database.job_lock import LOCK_PERIOD
from app.main import create_app
from app.retention.service import Retention
from app.server.connections import TimeLimits
from app.settings import Settings
from app.tokens.revocations import cache, entries
from app.tokens.revocations import feed as feed_module
from app.tokens.revocations.feed import RevocationFeed
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


async def test_an_empty_feed_has_a_cursor_after_which_everything_is_listed_in_order(
    app: FastAPI, client: AsyncClient
) -> None:
    beginning = await page_after(client, None)
    assert set(beginning) == {"revocations", "cursor", "more"}
    assert (beginning["revocations"], beginning["more"]) == ([], False)
    cursor = beginning["cursor"]
    for number in range(3):
        await publish(app, f"jti:{number}")
        async with asyncio.timeout(15):
            page = await page_after(client, cursor, wait=30)  # which is answered at once
        assert values(page) == [f"jti:{number}"]
        cursor = page["cursor"]
    assert values(await page_after(client, cursor)) == []
    # A listener that was away continues from its cursor. A new one starts without a cursor.
    everything = ["jti:0", "jti:1", "jti:2"]
    assert values(await page_after(client, beginning["cursor"])) == everything
    assert await revoked(client) == everything


async def test_a_long_feed_comes_in_pages(
    app: FastAPI, client: AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(entries, "PAGE_SIZE", 3)
    published = [f"jti:{number}" for number in range(5)]
    await publish(app, *published)
    first = await page_after(client, None)
    second = await page_after(client, first["cursor"])
    assert (len(first["revocations"]), first["more"]) == (3, True)
    assert (len(second["revocations"]), second["more"]) == (2, False)
    assert values(first) + values(second) == published


async def test_expired_revocations_are_no_longer_listed(
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
async def test_a_listener_waits_thirty_seconds_at_most(
    client: AsyncClient, subtests: pytest.Subtests
) -> None:
    invalid: tuple[dict[str, str | int], ...] = (
        {"wait": 31},
        {"wait": -1},
        {"wait": "long"},
        {"wait": "١"},  # noqa: RUF001 - the Arabic digit
        {"wait": ""},
        {"after": "a" * 101},
    )
    for params in invalid:
        with subtests.test(str(params)):
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


@on_postgresql
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


@on_sqlite
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
    app: FastAPI, client: AsyncClient, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    await publish(app, "jti:0")
    cursor = (await page_after(client, None))["cursor"]
    async with listening(client, app.state.revocation_feed, cursor) as (listener,):
        async with database.session() as session:
            await session.execute(text("ALTER TABLE revocation_feed RENAME TO lost"))
            await session.commit()
            with monkeypatch.context() as meanwhile:
                meanwhile.setattr(cache, "_QUERY_TIMEOUT_SECONDS", 0.2)
                await until(lambda: not app.state.revocation_cache.is_fresh())
                response = await client.get("/revocations", params={"after": cursor})
                assert_problem(response, 503, "temporarily_unavailable")
                await session.execute(text("ALTER TABLE lost RENAME TO revocation_feed"))
                await session.commit()
                await until(app.state.revocation_cache.is_fresh)
        await publish(app, "jti:1")
    assert values(listener.result()) == ["jti:1"]


async def test_no_reader_misses_one_of_several_simultaneous_revocations(
    settings: Settings, client: AsyncClient, database: Database
) -> None:
    writers, transactions = 6, 4
    elsewhere = Database(settings)

    async def write(writer: int) -> None:
        for number in range(transactions):
            async with (elsewhere if writer % 2 else database).session() as session:
                await begin_write(session)
                for part in range(1 + writer % 3):
                    value = f"jti:{writer}-{number}-{part}"
                    await Revocations(LIFETIME).publish(RequestContext(session, NOW), value)
                    # However long it takes until the commit, nobody reads past it.
                    await asyncio.sleep(random.random() / 500)
                await session.commit()

    async def follow(count: int) -> list[str]:
        listed: list[str] = []
        cursor: str | None = None
        while len(listed) < count:
            page = await page_after(client, cursor)
            listed += values(page)
            cursor = page["cursor"]
            await asyncio.sleep(0)
        return listed

    count = sum(transactions * (1 + writer % 3) for writer in range(writers))
    try:
        async with asyncio.timeout(30):
            async with asyncio.TaskGroup() as group:
                reader = group.create_task(follow(count))
                for writer in range(writers):
                    group.create_task(write(writer))
    finally:
        await elsewhere.close()
    listed = reader.result()
    assert len(listed) == len(set(listed)) == count
    assert await revoked(client) == listed


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


@on_sqlite
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

        for _ in range(2):
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


def cache_of(app: FastAPI) -> cache.RevocationCache:
    """As it is now: on SQLite it reads when it is asked."""
    known: cache.RevocationCache = app.state.revocation_cache
    known.is_fresh()
    return known


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
    """Revocations from before migration 0010 have the mark 0, and so has the head."""
    async with started(settings, clock) as app:
        await publish(app, "jti:1", "jti:2", "jti:3")
        async with app.state.database.session() as session:
            await begin_write(session)
            await session.execute(update(Revocation).values(mark=0))
            await session.execute(update(Feed).values(mark=0))
            await session.commit()
    async with started(settings, clock) as app, client_of(app) as client:
        cursor = (await page_after(client, None))["cursor"]
        await publish(app, "jti:new")
        assert values(await page_after(client, cursor)) == ["jti:new"]
    assert warnings(caplog) == []


async def test_a_worker_that_revokes_all_the_time_goes_on_serving_the_feed(
    app: FastAPI, client: AsyncClient
) -> None:
    async def invalidate() -> None:
        while True:
            app.state.revocation_cache.invalidate()
            await asyncio.sleep(0)

    revoking = asyncio.create_task(invalidate())
    try:
        for _ in range(5):
            await page_after(client, None)
    finally:
        revoking.cancel()


async def test_while_revocations_cannot_be_read_no_token_is_valid(
    app: FastAPI,
    database: Database,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
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
        with monkeypatch.context() as meanwhile:
            meanwhile.setattr(cache, "_QUERY_TIMEOUT_SECONDS", 0.2)
            # On PostgreSQL, the last result is fresh for a tenth of a second.
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
