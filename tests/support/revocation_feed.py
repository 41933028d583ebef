"""Revocations of an app in this process, and its feed as a client reads it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from typing import Any

from fastapi import FastAPI
from httpx import AsyncClient
from sqlalchemy import update

from app.context import RequestContext
from app.database.engine import Database, begin_write
from app.main import create_app
from app.settings import Settings
from app.tokens.revocations.models import Revocation
from app.tokens.revocations.service import Revocations
from tests.support.settings import Clock

LIFETIME = timedelta(minutes=60)
NOW = Clock()()
SECOND = timedelta(seconds=1)


async def publish(app: FastAPI, *values: str, lifetime: timedelta = LIFETIME) -> None:
    """Publish as the operations do."""
    async with app.state.database.session() as session:
        await begin_write(session)
        for value in values:
            await Revocations(lifetime, app.state.revocation_cache).publish(
                RequestContext(session, NOW), value
            )
        await session.commit()


async def expire(database: Database, value: str) -> None:
    """Let it be expired."""
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


async def answers(client: AsyncClient, path: str, status: int) -> bool:
    """Whether it soon does: a worker needs a moment until it has found the database again."""
    try:
        async with asyncio.timeout(10):
            while (await client.get(path)).status_code != status:
                await asyncio.sleep(0.02)
    except TimeoutError:
        return False
    return True


async def lists(client: AsyncClient, *values: str) -> bool:
    """Whether the feed soon has all of them."""
    with suppress(TimeoutError):
        async with asyncio.timeout(10):
            while True:
                response = await client.get("/revocations")
                if response.status_code == 200:
                    listed = {entry["value"] for entry in response.json()["revocations"]}
                    if listed.issuperset(values):
                        return True
                await asyncio.sleep(0.02)
    return False
