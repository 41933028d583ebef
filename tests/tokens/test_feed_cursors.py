"""Cursors of the feed: a listener continues where it was, or is told to start again."""

import asyncio
import logging
import time

import pytest
from fastapi import FastAPI
from httpx import AsyncClient
from sqlalchemy import select, update

from app.context import RequestContext
from app.database.engine import Database, begin_write
from app.database.job_lock import LOCK_PERIOD
from app.maintenance.retention.service import Retention
from app.settings import Settings
from app.tokens.revocations import cache
from app.tokens.revocations import feed as feed_module
from app.tokens.revocations.models import Feed, Revocation
from app.tokens.revocations.service import CLOCK_MARGIN, Revocations
from app.tokens.signing_keys.keys import CLOCK_SKEW
from tests.support.apps import client_of, started_client
from tests.support.revocation_feed import (
    LIFETIME,
    NOW,
    expire,
    page_after,
    publish,
    started,
    values,
)
from tests.support.settings import Clock
from tests.support.users import assert_problem, revoked
from tests.support.waiting import until


async def test_a_cursor_of_another_or_a_restored_database_is_unknown(
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


async def test_a_cursor_whose_revocation_was_purged_is_unknown_unless_it_is_the_last(
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


async def test_a_cursor_of_one_instance_is_known_to_another_at_once(
    app: FastAPI, client: AsyncClient, settings: Settings, clock: Clock
) -> None:
    """A load balancer leads one listener to all instances. On PostgreSQL, each polls by itself."""
    async with started_client(settings, clock) as there:
        for number in range(5):
            await publish(app, f"jti:{number}")
            cursor = (await page_after(client, None))["cursor"]
            assert values(await page_after(there, cursor)) == []


async def test_after_the_feed_was_renamed_only_new_cursors_are_known(
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


async def test_a_listener_without_news_for_a_day_continues_from_its_cursor(
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
                while not values(page := await page_after(there, cursor)):
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
