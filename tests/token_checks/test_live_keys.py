"""Each worker knows which API keys there are, so that forged ones cost no query."""

import asyncio
import random
import sys

import httpx
import pytest
from fastapi import FastAPI

from app.credentials.api_keys import live_keys as module
from app.credentials.api_keys.fingerprints import hash_key
from app.credentials.api_keys.live_keys import Fingerprints, LiveKeys, fingerprint_of
from app.settings import Settings
from app.tokens.revocations.cache import RevocationCache
from hourpass.api_keys import generate_key
from tests.support.api_keys import change_key, insert_key, keys_are_loaded, statements
from tests.support.apps import started_client
from tests.support.markers import on_postgresql, on_sqlite
from tests.support.settings import Clock
from tests.support.users import bearer
from tests.support.waiting import until

ARTHURS_ID = 1


def is_known(live_keys: LiveKeys, key: str) -> bool:
    return live_keys._is_possible(fingerprint_of(hash_key(key)))


async def status(client: httpx.AsyncClient, key: str) -> int:
    return (await client.get("/verify", headers=bearer(key))).status_code


def test_a_set_of_fingerprints_is_a_set_that_takes_ten_bytes_for_each() -> None:
    numbers = random.Random(29)
    known = Fingerprints()
    expected: set[int] = set()
    for _ in range(100_000):
        number = numbers.getrandbits(64)
        known.add(number)
        expected.add(number)
    some = [*expected][:1_000]
    for number in some:
        known.add(number)
    assert len(known) == len(expected)
    for number in some:
        known.discard(number)
        known.discard(number)
        expected.discard(number)
    assert len(known) == len(expected)
    assert all(number in known for number in expected)
    assert not any(number in known for number in some)
    assert not any(number + 1 in known for number in some if number + 1 not in expected)
    for number in (0, 2**64 - 1):
        assert number not in known
        known.add(number)
        assert number in known
    taken = sum(sys.getsizeof(bucket) for bucket in known._buckets)
    assert taken / len(known) < 10


async def test_all_valid_keys_are_loaded_in_batches(
    clock: Clock, app: FastAPI, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "BATCH_SIZE", 2)
    live = [await insert_key(app, ARTHURS_ID) for _ in range(5)]
    dead = [
        await insert_key(app, ARTHURS_ID, revoked_at=clock()),
        await insert_key(app, ARTHURS_ID, suspended_at=clock()),
        await insert_key(app, ARTHURS_ID, expires_at=clock()),
    ]
    live_keys = LiveKeys(app.state.database, RevocationCacheDouble())
    stopping = asyncio.Event()
    job = asyncio.create_task(live_keys.run(stopping))
    await until(lambda: live_keys.is_loaded)
    stopping.set()
    await job
    assert len(live_keys) == 5
    for key in live:
        assert is_known(live_keys, key)
    for key in dead:
        assert not is_known(live_keys, key)


async def test_a_key_that_another_worker_created_works_at_once(
    settings: Settings, clock: Clock, app: FastAPI, client: httpx.AsyncClient
) -> None:
    await keys_are_loaded(app)
    async with started_client(settings, clock) as other:
        other_app = other._transport.app  # type: ignore[attr-defined]  # of the ASGI transport
        await keys_are_loaded(other_app)
        for _ in range(5):
            key = await insert_key(other_app, ARTHURS_ID)
            assert await status(client, key) == 200
        await change_key(app, key, suspended_at=clock())
        assert await status(client, key) == 401
        await until(
            lambda: app.state.revocation_cache.head == other_app.state.revocation_cache.head
        )
        assert await status(other, key) == 401


@on_sqlite
async def test_a_key_that_was_rejected_is_removed_from_the_known_keys(
    app: FastAPI, client: httpx.AsyncClient, clock: Clock
) -> None:
    await keys_are_loaded(app)
    key = await insert_key(app, ARTHURS_ID, suspended_at=clock())
    await until(app.state.revocation_cache.is_fresh)
    assert is_known(app.state.live_keys, key)
    assert await status(client, key) == 401
    assert not is_known(app.state.live_keys, key)
    with statements(app) as found:
        assert await status(client, key) == 401
        assert not any("api_keys" in statement for statement in found)
    # As if it was resumed: its row changes, and it is announced.
    await change_key(app, key, narrows=False, suspended_at=None)
    app.state.live_keys._add(hash_key(key)[:8].hex())
    assert await status(client, key) == 200


@on_sqlite
async def test_a_key_that_became_valid_in_the_meantime_stays_known(app: FastAPI) -> None:
    await keys_are_loaded(app)
    live_keys: LiveKeys = app.state.live_keys
    before = live_keys.head
    key = await insert_key(app, ARTHURS_ID)
    await until(lambda: live_keys.head != before)
    live_keys.forget(fingerprint_of(hash_key(key)), before)
    await until(app.state.revocation_cache.is_fresh)
    assert is_known(live_keys, key)


@on_sqlite
async def test_another_history_of_the_database_loads_all_keys_again(
    app: FastAPI, client: httpx.AsyncClient
) -> None:
    await keys_are_loaded(app)
    key = await insert_key(app, ARTHURS_ID)
    app.state.live_keys.forget(fingerprint_of(hash_key(key)), app.state.live_keys.head)
    app.state.revocation_cache.history += 1
    assert not app.state.live_keys.is_loaded
    assert await status(client, key) == 200  # the database was asked
    await keys_are_loaded(app)
    assert len(app.state.live_keys) == 1


@on_sqlite
async def test_with_too_many_keys_the_database_is_asked_about_all(
    app: FastAPI,
    client: httpx.AsyncClient,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(module, "MAX_LIVE_KEYS", 2)
    await keys_are_loaded(app)
    keys = [await insert_key(app, ARTHURS_ID) for _ in range(3)]
    assert [await status(client, key) for key in keys] == [200] * 3
    with statements(app) as found:
        assert await status(client, generate_key()) == 401
        assert len([one for one in found if "api_keys" in one]) == 1
    app.state.live_keys._history = -1
    await until(lambda: "There are 2 API keys or more" in caplog.text)
    assert not app.state.live_keys.is_loaded
    assert len(app.state.live_keys) == 0
    await asyncio.sleep(3 * module.CHECK_SECONDS)
    assert caplog.text.count("API keys or more") == 1  # until tomorrow


@on_postgresql
async def test_in_a_flood_unknown_keys_do_not_wait(
    app: FastAPI, client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    await keys_are_loaded(app)
    waits: list[None] = []
    cache: RevocationCache = app.state.revocation_cache
    wait_for_read = cache.wait_for_read

    async def note() -> bool:
        waits.append(None)
        return await wait_for_read()

    monkeypatch.setattr(cache, "wait_for_read", note)
    monkeypatch.setattr(cache, "is_fresh", lambda: True)  # also on a busy host
    monkeypatch.setattr(module, "monotonic", lambda: 1_000.5)
    monkeypatch.setattr(module, "MAX_WAITING_PER_SECOND", 5)
    for _ in range(module.MAX_WAITING_PER_SECOND + 5):
        assert await status(client, generate_key()) == 401
    assert len(waits) == module.MAX_WAITING_PER_SECOND
    known = await insert_key(app, ARTHURS_ID)
    monkeypatch.setattr(cache, "is_fresh", lambda: False)
    with statements(app) as found:
        assert await status(client, generate_key()) == 503
        assert not any("api_keys" in statement for statement in found)
    await until(lambda: not app.state.live_keys._is_possible(0) and len(app.state.live_keys) == 1)
    assert await status(client, known) == 200
    monkeypatch.setattr(module, "monotonic", lambda: 1_001.0)
    assert await status(client, generate_key()) == 401
    assert len(waits) == module.MAX_WAITING_PER_SECOND + 1


@on_sqlite
async def test_a_worker_that_cannot_load_the_keys_starts_and_asks_the_database(
    settings: Settings,
    clock: Clock,
    app: FastAPI,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    key = await insert_key(app, ARTHURS_ID)
    load_batch = LiveKeys._load_batch

    async def fail(*_: object) -> None:
        raise OSError("hidden")

    monkeypatch.setattr(LiveKeys, "_load_batch", fail)
    monkeypatch.setattr(module, "RETRY_SECONDS", 0.01)
    async with started_client(settings, clock) as other:
        assert (await other.get("/readyz")).status_code == 200
        assert await status(other, key) == 200
        assert await status(other, generate_key()) == 401
        await until(lambda: "Cannot load the API keys" in caplog.text)
        monkeypatch.setattr(LiveKeys, "_load_batch", load_batch)
        await keys_are_loaded(other._transport.app)  # type: ignore[attr-defined]  # of the ASGI transport


class RevocationCacheDouble(RevocationCache):
    """Always fresh."""

    def is_fresh(self) -> bool:
        return True

    def invalidate(self) -> None:
        pass

    async def follow(self, stopping: asyncio.Event) -> None:
        await stopping.wait()
