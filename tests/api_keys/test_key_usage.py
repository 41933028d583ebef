"""The day of the last use of an API key is written hourly, not by the request."""

import asyncio
from datetime import date, timedelta

import httpx
import pytest
from fastapi import FastAPI
from sqlalchemy import select

from app.credentials.api_keys import usage as module
from app.credentials.api_keys.models import ApiKey
from app.credentials.api_keys.usage import KeyUsage
from app.settings import Settings
from hourpass.api_keys import id_of
from tests.support.api_keys import exchange, insert_key, keys_are_loaded, statements
from tests.support.apps import started_client
from tests.support.settings import Clock
from tests.support.users import bearer

ARTHURS_ID = 1


async def last_used_on(app: FastAPI, key: str) -> date | None:
    async with app.state.database.session() as session:
        found: date | None = await session.scalar(
            select(ApiKey.last_used_on).where(ApiKey.id == id_of(key))
        )
        return found


async def test_each_use_is_written_once_a_day_and_not_by_the_request(
    app: FastAPI, client: httpx.AsyncClient, clock: Clock
) -> None:
    verified, exchanged, unused = [await insert_key(app, ARTHURS_ID) for _ in range(3)]
    await keys_are_loaded(app)
    with statements(app) as found:
        for _ in range(3):
            await client.get("/verify", headers=bearer(verified))
            await exchange(client, exchanged)
        assert not any(statement.startswith("UPDATE") for statement in found)
    usage: KeyUsage = app.state.key_usage
    assert await last_used_on(app, verified) is None
    await usage.write()
    today = clock().date()
    assert [await last_used_on(app, key) for key in (verified, exchanged, unused)] == [
        today,
        today,
        None,
    ]
    with statements(app) as found:
        await usage.write()
        assert found == []
    clock.advance(timedelta(days=1))
    await client.get("/verify", headers=bearer(verified))
    usage.note(id_of(exchanged), clock() - timedelta(days=2))  # reported late
    await usage.write()
    assert await last_used_on(app, verified) == today + timedelta(days=1)
    assert await last_used_on(app, exchanged) == today


async def test_the_last_use_is_written_when_the_service_stops(
    settings: Settings, clock: Clock, app: FastAPI
) -> None:
    key = await insert_key(app, ARTHURS_ID)
    async with started_client(settings, clock) as other:
        await other.get("/verify", headers=bearer(key))
        assert await last_used_on(app, key) is None
    assert await last_used_on(app, key) == clock().date()


async def test_workers_that_write_at_once_do_not_wait_for_one_another(
    app: FastAPI, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "BATCH_SIZE", 7)
    keys = [await insert_key(app, ARTHURS_ID) for _ in range(20)]
    workers = [KeyUsage(app.state.database) for _ in range(4)]
    for worker in workers:
        for key in keys:
            worker.note(id_of(key), clock())
    async with asyncio.timeout(20):
        await asyncio.gather(*(worker.write() for worker in workers))
    assert {await last_used_on(app, key) for key in keys} == {clock().date()}
    assert all(not worker._noted for worker in workers)


async def test_a_limited_number_of_uses_is_kept_while_they_cannot_be_written(
    app: FastAPI,
    clock: Clock,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    key = await insert_key(app, ARTHURS_ID)
    monkeypatch.setattr(module, "MAX_NOTED", 2)
    monkeypatch.setattr(module, "WRITE_SECONDS", 0.01)
    usage = KeyUsage(app.state.database)
    for key_id in (id_of(key), "second", "third"):
        usage.note(key_id, clock())
    assert list(usage._noted) == [id_of(key), "second"]
    write = KeyUsage._write

    async def fail(*_: object) -> None:
        raise OSError("hidden")

    monkeypatch.setattr(KeyUsage, "_write", fail)
    stopping = asyncio.Event()
    job = asyncio.create_task(usage.run(stopping))
    async with asyncio.timeout(20):
        while "Cannot write when API keys were used" not in caplog.text:
            await asyncio.sleep(0.01)
    assert len(usage._noted) == 2
    monkeypatch.setattr(KeyUsage, "_write", write)
    stopping.set()
    await job
    assert usage._noted == {}
    assert await last_used_on(app, key) == clock().date()
