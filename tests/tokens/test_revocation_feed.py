"""The feed of revocations for APIs that verify tokens themselves: in order, without gaps, at once
for listeners that wait, and without expired entries."""

import asyncio
import random
import time
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from httpx import AsyncClient
from sqlalchemy import text

from app.context import RequestContext
from app.database.engine import Database, begin_write
from app.main import create_app
from app.server.connections import TimeLimits
from app.settings import Settings
from app.tokens.revocations import cache, entries
from app.tokens.revocations import feed as feed_module
from app.tokens.revocations.feed import RevocationFeed
from app.tokens.revocations.service import CLOCK_MARGIN, Revocations
from app.tokens.signing_keys.keys import CLOCK_SKEW
from tests.support.apps import client_of, started_client
from tests.support.limited_service import limited_service, wait_for
from tests.support.markers import on_postgresql, on_sqlite
from tests.support.revocation_feed import (
    LIFETIME,
    NOW,
    expire,
    page_after,
    publish,
    started,
    values,
)
from tests.support.servers import served
from tests.support.settings import Clock, make_settings
from tests.support.users import (
    LANCELOT,
    assert_problem,
    bearer,
    claims_of,
    log_in,
    register,
    revoked,
    user_revocation,
)
from tests.support.waiting import until


@asynccontextmanager
async def listening(
    client: AsyncClient, feed: RevocationFeed, cursor: str, listeners: int = 1
) -> AsyncIterator[Sequence["asyncio.Task[dict[str, Any]]"]]:
    """Listeners that already wait."""
    async with asyncio.timeout(15), asyncio.TaskGroup() as group:
        tasks = [group.create_task(page_after(client, cursor, 20)) for _ in range(listeners)]
        while len(feed._listeners) < listeners:
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
                assert values(listener.result()) == [user_revocation(token)]
            cursor = listener.result()["cursor"]


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
            assert values(listener.result()) == [user_revocation(token)]


@on_sqlite
async def test_one_listener_too_many_gets_a_retry_after(app: FastAPI, client: AsyncClient) -> None:
    app.state.revocation_feed.max_listeners = 2
    cursor = (await page_after(client, None))["cursor"]
    async with listening(client, app.state.revocation_feed, cursor, 2):
        response = await client.get("/revocations", params={"after": cursor, "wait": 20})
        assert_problem(response, 503, "temporarily_unavailable")
        assert response.headers["retry-after"] == "1"
        assert values(await page_after(client, cursor)) == [], "requests without a wait still work"
        await publish(app, "jti:1")
    assert values(await page_after(client, cursor, wait=1)) == ["jti:1"]
    assert not app.state.revocation_feed._listeners


async def test_listeners_keep_waiting_during_a_database_outage(
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
    writers, transactions = 4, 2
    elsewhere = Database(settings)

    async def write(writer: int) -> None:
        for number in range(transactions):
            async with (elsewhere if writer % 2 else database).session() as session:
                await begin_write(session)
                for part in range(1 + writer % 3):
                    value = f"jti:{writer}-{number}-{part}"
                    await Revocations(LIFETIME).publish(RequestContext(session, NOW), value)
                    # No reader skips this one, however long the commit takes.
                    await asyncio.sleep(random.random() / 500)
                await session.commit()

    async def follow(count: int) -> list[str]:
        listed: list[str] = []
        cursor: str | None = None
        while len(listed) < count:
            page = await page_after(client, cursor)
            listed += values(page)
            cursor = page["cursor"]
            await asyncio.sleep(0.001)
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
        assert time.monotonic() - asked_to_end < 30  # before the end of their `wait`
        for answer in waiting:
            assert answer.result().json()["revocations"] == []


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
            # Requests that arrive late take places for a moment.
            while (answer := await client.get("/revocations", params=query)).status_code == 503:
                await asyncio.sleep(0.05)
        assert values(answer.json()) == []


async def test_a_worker_that_revokes_all_the_time_still_serves_the_feed(
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
                RequestContext(session, NOW), f"jti:{claims_of(token)['jti']}"
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
        assert values(await page_after(client, cursor)) == [f"jti:{claims_of(token)['jti']}"]
