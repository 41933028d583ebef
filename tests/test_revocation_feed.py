"""The feed of revocations, for APIs that verify tokens themselves: in order, without a gap, heard
of at once by whoever waits, and never longer than what a token's lifetime can hold."""

import asyncio
import random
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import pytest
from app.revocations.news import news_from
from fastapi import FastAPI
from httpx import AsyncClient
from sqlalchemy import text

from app.chores import Chores
from app.database import Database, begin_write, create_engine
from app.main import create_app
from app.revocations import service
from app.revocations.models import Revocation
from app.revocations.service import PAGE_SIZE, Revocations, Watch
from app.settings import Settings
from app.tokens.keys import CLOCK_SKEW
from tests.conftest import Clock, client_of, make_settings, serving
from tests.people import (
    LANCELOT,
    assert_problem,
    at_court,
    bearer,
    log_in,
    register,
    revoked,
)

on_sqlite = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)

LIFETIME = timedelta(minutes=60)
KNOWN_FOR = LIFETIME + CLOCK_SKEW
SECOND = timedelta(seconds=1)


async def publish(database: Database, clock: Clock, *values: str) -> None:
    """One deed, as the verbs do it."""
    async with database.session() as session:
        await begin_write(session)
        for value in values:
            await Revocations(session, LIFETIME).publish(value, clock())
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
async def listening(
    client: AsyncClient, watch: Watch, cursor: str, listeners: int = 1
) -> AsyncIterator[Sequence["asyncio.Task[dict[str, Any]]"]]:
    """Listeners who wait for news, and are certain to do so already."""
    async with asyncio.timeout(15), asyncio.TaskGroup() as group:
        tasks = [group.create_task(page_after(client, cursor, 20)) for _ in range(listeners)]
        while watch._listeners < listeners:  # noqa: ASYNC110 - it has no event for this
            await asyncio.sleep(0.01)
        yield tasks


async def test_an_empty_feed_has_a_cursor_from_which_everything_is_heard_in_order(
    app: FastAPI, client: AsyncClient, clock: Clock
) -> None:
    beginning = await page_after(client, None)
    assert set(beginning) == {"revocations", "cursor", "more"}
    assert (beginning["revocations"], beginning["more"]) == ([], False)
    cursor = beginning["cursor"]
    for number in range(3):
        await publish(app.state.database, clock, f"jti:{number}")
        page = await page_after(client, cursor)
        assert values(page) == [f"jti:{number}"]
        cursor = page["cursor"]
    assert values(await page_after(client, cursor)) == []
    # Who was away goes on from where it was, and who is new begins without a cursor.
    everything = ["jti:0", "jti:1", "jti:2"]
    assert values(await page_after(client, beginning["cursor"])) == everything
    assert await revoked(client) == everything


async def test_a_long_feed_comes_in_pages(app: FastAPI, client: AsyncClient, clock: Clock) -> None:
    published = [f"jti:{number}" for number in range(PAGE_SIZE + 3)]
    await publish(app.state.database, clock, *published)
    first = await page_after(client, None)
    second = await page_after(client, first["cursor"])
    assert (len(first["revocations"]), first["more"]) == (PAGE_SIZE, True)
    assert (len(second["revocations"]), second["more"]) == (3, False)
    assert values(first) + values(second) == published


async def test_what_has_expired_is_not_listed_and_the_cursor_goes_on(
    app: FastAPI, client: AsyncClient, clock: Clock
) -> None:
    cursor = (await page_after(client, None))["cursor"]
    await publish(app.state.database, clock, "jti:old")
    clock.advance(KNOWN_FOR - SECOND)
    await publish(app.state.database, clock, "jti:new")
    assert await revoked(client) == ["jti:old", "jti:new"]
    clock.advance(SECOND)
    for after in (None, cursor):
        assert values(page := await page_after(client, after)) == ["jti:new"]
    clock.advance(KNOWN_FOR)
    assert values(await page_after(client, cursor)) == []
    assert (await page_after(client, None))["cursor"] == page["cursor"]


async def test_a_cursor_of_another_or_a_restored_database_says_to_start_over(
    app: FastAPI, client: AsyncClient, clock: Clock
) -> None:
    await publish(app.state.database, clock, "jti:1")
    name, _, position = (await page_after(client, None))["cursor"].partition(".")
    assert position == "1"
    for cursor in (
        "garbage",
        f"{name}.-1",
        f"{name}.",
        f"{name}.1 ",
        f"{name}.١",  # noqa: RUF001 - the Arabic digit
        f"{name}.{'9' * 18}",
        f"{name}.2",  # ahead: the database is older than the cursor
        "0123456789abcdef.1",  # another feed's
        "\0",
    ):
        response = await client.get("/revocations", params={"after": cursor})
        assert_problem(response, 410, "cursor_unknown")
        response = await client.get("/revocations", params={"after": cursor, "wait": 20})
        assert_problem(response, 410, "cursor_unknown")
    assert values(await page_after(client, f"{name}.0")) == ["jti:1"]


@on_sqlite
@pytest.mark.parametrize(
    "params", [{"wait": 21}, {"wait": -1}, {"wait": "long"}, {"after": "a" * 41}], ids=str
)
async def test_a_listener_waits_twenty_seconds_at_most(
    client: AsyncClient, params: dict[str, str | int]
) -> None:
    response = await client.get("/revocations", params=params)
    assert_problem(response, 422, "invalid_request")


async def test_who_waits_hears_of_a_revocation_here_and_on_another_instance(
    app: FastAPI, client: AsyncClient, settings: Settings, clock: Clock
) -> None:
    user_id = await register(client, LANCELOT)
    cursor = (await page_after(client, None))["cursor"]
    async with at_court(settings, clock) as there:
        for epoch, caller in enumerate([client, there]):
            token = await log_in(caller, LANCELOT)
            async with listening(client, app.state.watch, cursor, 3) as listeners:
                await caller.post("/me/logout-everywhere", headers=bearer(token))
            for listener in listeners:
                assert values(listener.result()) == [f"sub:{user_id}:{epoch}"]
            cursor = listener.result()["cursor"]


async def test_without_news_the_answer_is_empty_when_the_time_is_up(client: AsyncClient) -> None:
    cursor = (await page_after(client, None))["cursor"]
    page = await page_after(client, cursor, wait=1)
    assert page == {"revocations": [], "cursor": cursor, "more": False}


async def test_who_waits_holds_no_database_connection(settings: Settings, clock: Clock) -> None:
    only_one = make_settings(settings.database_url, database_pool_size=1)
    app = create_app(only_one, clock)
    async with app.router.lifespan_context(app), client_of(app) as client:
        user_id = await register(client, LANCELOT)
        cursor = (await page_after(client, None))["cursor"]
        async with listening(client, app.state.watch, cursor, 20) as listeners:
            token = await log_in(client, LANCELOT)
            await client.post("/me/logout-everywhere", headers=bearer(token))
        for listener in listeners:
            assert values(listener.result()) == [f"sub:{user_id}:0"]


async def test_one_listener_too_many_is_told_to_come_back(
    app: FastAPI, client: AsyncClient, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "MAX_LISTENERS", 2)
    cursor = (await page_after(client, None))["cursor"]
    async with listening(client, app.state.watch, cursor, 2):
        response = await client.get("/revocations", params={"after": cursor, "wait": 20})
        assert_problem(response, 503, "temporarily_unavailable")
        assert response.headers["retry-after"] == "1"
        assert values(await page_after(client, cursor)) == [], "asking without waiting goes on"
        await publish(app.state.database, clock, "jti:1")
    assert values(await page_after(client, cursor, wait=1)) == ["jti:1"]
    assert app.state.watch._listeners == 0


async def test_listeners_wait_on_while_the_database_is_in_trouble(
    database: Database, settings: Settings, clock: Clock
) -> None:
    news = news_from(create_engine(settings), LIFETIME)
    chores = Chores()
    chores.start(news.listen)
    watch = Watch(news, asyncio.Event())
    await publish(database, clock, "jti:0")
    waiting = asyncio.create_task(watch.wait_beyond("0123456789abcdef.1", 20))
    async with asyncio.timeout(15), database.session() as session:
        await session.execute(text("ALTER TABLE revocation_feed RENAME TO lost"))
        await session.commit()
        await asyncio.sleep(3 * service.TICK_SECONDS)
        await session.execute(text("ALTER TABLE lost RENAME TO revocation_feed"))
        await session.commit()
        await publish(database, clock, "jti:1")
        await waiting
    assert news.position == 2
    watch.close()
    await chores.end()


async def test_of_simultaneous_revocations_no_reader_misses_one(
    settings: Settings, database: Database, clock: Clock
) -> None:
    writers, deeds = 8, 8
    elsewhere = Database(settings)

    async def write(writer: int) -> None:
        for deed in range(deeds):
            async with (elsewhere if writer % 2 else database).session() as session:
                await begin_write(session)
                for part in range(1 + writer % 3):
                    value = f"jti:{writer}-{deed}-{part}"
                    await Revocations(session, LIFETIME).publish(value, clock())
                    # However long it takes until the commit, nobody reads past it.
                    await asyncio.sleep(random.random() / 500)
                await session.commit()

    async def follow(count: int) -> list[Revocation]:
        heard: list[Revocation] = []
        cursor: str | None = None
        async with database.session() as session:
            while len(heard) < count:
                news, cursor, _ = await Revocations(session, LIFETIME).read(cursor, clock())
                heard += news
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
    assert [entry.position for entry in heard] == list(range(1, count + 1))
    assert len({entry.value for entry in heard}) == count


@on_sqlite
async def test_a_service_that_ends_answers_its_listeners_instead_of_waiting(
    database_url: str,
) -> None:
    async with AsyncClient(timeout=30) as client:
        with serving(database_url) as base_url:
            feed = f"{base_url}/revocations"
            query = {"after": (await client.get(feed)).json()["cursor"], "wait": 20}
            waiting = [asyncio.create_task(client.get(feed, params=query)) for _ in range(5)]
            await asyncio.sleep(0.5)
            asked_to_end = time.monotonic()
        assert time.monotonic() - asked_to_end < 10
        for answer in await asyncio.gather(*waiting):
            assert answer.json()["revocations"] == []
