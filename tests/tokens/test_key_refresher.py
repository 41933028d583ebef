"""Workers learn of new and revoked signing keys: in time, and without flooding the database."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import monotonic
from typing import Any

import pytest
from fastapi import FastAPI
from httpx import AsyncClient
from sqlalchemy import event, text

from app.background_jobs import BackgroundJobs
from app.context import RequestContext
from app.database.engine import Database
from app.settings import Settings
from app.tokens import key_refresher
from app.tokens.errors import InvalidTokenError
from app.tokens.jwt import AccessTokens
from app.tokens.key_refresher import KeyRefresher
from app.tokens.revocations.cache import RevocationCache
from app.tokens.signing_keys.keys import Keyring
from app.tokens.signing_keys.store import KeyStore
from tests.support.apps import started_client
from tests.support.markers import on_sqlite
from tests.support.settings import Clock, make_settings, utc_now
from tests.support.signing_keys import command, published, refresh_keys, rotate, with_unknown_key
from tests.support.users import (
    LANCELOT,
    assert_problem,
    becomes_invalid,
    kid_of,
    log_in,
    register,
    revoked,
    token_is_valid,
)
from tests.support.waiting import until

__all__ = ["command"]

pytestmark = pytest.mark.first_start


async def test_revoking_the_current_key_revokes_its_tokens_everywhere_and_another_key_signs(
    settings: Settings, command: Callable[..., str]
) -> None:
    async with (
        started_client(settings, utc_now) as here,
        started_client(settings, utc_now) as there,
    ):
        await register(here, LANCELOT)
        stolen = await log_in(here, LANCELOT)
        assert await token_is_valid(there, stolen)
        await asyncio.to_thread(command, "revoke", kid_of(stolen), "--yes")
        assert await becomes_invalid(here, stolen)
        assert await becomes_invalid(there, stolen)
        assert await revoked(there) == [f"kid:{kid_of(stolen)}"]
        for one, other in [(here, there), (there, here)]:
            await token_is_valid(one, with_unknown_key())
            fresh = await log_in(one, LANCELOT)
            assert kid_of(fresh) != kid_of(stolen)
            assert await token_is_valid(one, fresh)
            assert await token_is_valid(other, fresh)
        assert await published(here) == await published(there) == [kid_of(fresh)]


async def test_a_token_of_a_key_that_another_worker_just_created_is_checked_again(
    settings: Settings, clock: Clock
) -> None:
    at_once = make_settings(settings.database_url, key_announce_seconds=0)
    async with started_client(at_once, clock) as here:
        await register(here, LANCELOT)
        async with started_client(at_once, clock) as there:
            database = Database(at_once, clock)
            new = await rotate(database, at_once, clock)
            await database.close()
            await refresh_keys(here, clock)
            token = await log_in(here, LANCELOT)
            assert kid_of(token) == new
            assert await token_is_valid(there, token)


@contextmanager
def counted_reads(database: Database) -> Iterator[list[str]]:
    """The statements that read the signing keys."""
    reads: list[str] = []

    def note(_: Any, __: Any, statement: str, *___: Any) -> None:
        if "FROM signing_keys" in statement:
            reads.append(statement)

    engine = database.engine.sync_engine
    event.listen(engine, "before_cursor_execute", note)
    yield reads
    event.remove(engine, "before_cursor_execute", note)


class Known(RevocationCache):
    """Knows only how many keys were revoked."""

    revoked_keys = 0

    def is_fresh(self) -> bool:
        return True

    def invalidate(self) -> None: ...

    async def follow(self, stopping: asyncio.Event) -> None: ...

    def count_revoked_keys(self) -> int:
        return self.revoked_keys


@on_sqlite
async def test_tokens_with_unknown_kids_cause_at_most_ten_queries_a_second(
    database: Database, settings: Settings, clock: Clock
) -> None:
    async with database.session() as session:
        tokens = AccessTokens(
            settings, await KeyStore(settings).load(RequestContext(session, clock()))
        )
    keys = KeyRefresher(tokens, database, KeyStore(settings), clock, Known())

    async def present(number: int) -> None:
        with pytest.raises(InvalidTokenError):
            await keys.decode(with_unknown_key(f"{number:016x}"), clock())

    began_at = monotonic()
    with counted_reads(database) as reads:
        for _ in range(10):
            await asyncio.gather(*(present(number) for number in range(50)))
    assert len(reads) == 10
    assert monotonic() - began_at > 0.899  # nine pauses, which a slow machine only prolongs


async def test_of_many_simultaneous_requests_one_reads_the_keys_after_a_revocation(
    database: Database, settings: Settings, clock: Clock
) -> None:
    known = Known()
    async with database.session() as session:
        tokens = AccessTokens(
            settings, await KeyStore(settings).load(RequestContext(session, clock()))
        )
    keys = KeyRefresher(tokens, database, KeyStore(settings), clock, known)
    known.revoked_keys = 1
    with counted_reads(database) as reads:
        await asyncio.gather(*(keys.catch_up() for _ in range(10)))
    assert len(reads) == 1


async def test_keys_are_read_by_one_task_at_a_time(
    database: Database, settings: Settings, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise an older result that arrives later would replace a newer one."""
    monkeypatch.setattr(key_refresher, "REFRESH_SECONDS", 0)
    monkeypatch.setattr(key_refresher, "MIN_REFRESH_INTERVAL_SECONDS", 0)
    read = KeyStore.read
    known = Known()
    under_way = most = 0

    async def noted_read(
        store: KeyStore, context: RequestContext, known: Keyring | None = None
    ) -> Keyring:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        keyring = await read(store, context, known)
        under_way -= 1
        return keyring

    async with database.session() as session:
        tokens = AccessTokens(
            settings, await KeyStore(settings).load(RequestContext(session, clock()))
        )
    keys = KeyRefresher(tokens, database, KeyStore(settings), clock, known)
    monkeypatch.setattr(KeyStore, "read", noted_read)

    async def present_unknown_keys() -> None:
        for number in range(20):
            with pytest.raises(InvalidTokenError):
                await keys.decode(with_unknown_key(f"{number:016x}"), clock())

    async def hear_of_revoked_keys() -> None:
        for _ in range(20):
            known.revoked_keys += 1
            await keys.catch_up()

    jobs = BackgroundJobs()
    jobs.start(keys.run)
    await asyncio.gather(present_unknown_keys(), hear_of_revoked_keys())
    await jobs.stop()
    assert most == 1


async def test_workers_read_new_keys_again_after_a_database_outage(
    database: Database,
    settings: Settings,
    clock: Clock,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(key_refresher, "REFRESH_SECONDS", 0.01)
    caplog.set_level("INFO", "hourpass.keys")
    async with database.session() as session:
        tokens = AccessTokens(
            settings, await KeyStore(settings).load(RequestContext(session, clock()))
        )
        jobs = BackgroundJobs()
        jobs.start(KeyRefresher(tokens, database, KeyStore(settings), clock, Known()).run)
        await session.execute(text("ALTER TABLE signing_keys RENAME TO lost"))
        await session.commit()
        with counted_reads(database) as reads:
            await until(lambda: len(reads) >= 5)
        await session.execute(text("ALTER TABLE lost RENAME TO signing_keys"))
        await session.commit()
    new = await rotate(database, settings, clock)
    await until(lambda: new in [key.kid for key in tokens.keyring.keys])
    await jobs.stop()
    # One warning, not one for each failure.
    logged = [record.message for record in caplog.records if record.name == "hourpass.keys"]
    problem = "Cannot load the signing keys, using the cached ones"
    assert [line for line in logged if problem in line] == [problem, f"Works again: {problem}"]


async def test_a_worker_lists_a_revoked_key_only_once_it_has_the_next_one(
    settings: Settings, command: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """However rarely it reads the keys by itself. The revoked one no longer signs."""
    monkeypatch.setattr(key_refresher, "REFRESH_SECONDS", 3600)
    async with (
        started_client(settings, utc_now) as here,
        started_client(settings, utc_now) as there,
    ):
        await register(here, LANCELOT)
        for _ in range(2):
            old = kid_of(await log_in(here, LANCELOT))
            await asyncio.to_thread(command, "revoke", old, "--yes")
            for client in (there, here):
                async with asyncio.timeout(10):
                    while kid_of(await log_in(client, LANCELOT)) == old:
                        await asyncio.sleep(0.005)
                    while f"kid:{old}" not in await revoked(client):
                        await asyncio.sleep(0.005)
                (new,) = await published(client)
                assert new != old
                assert kid_of(await log_in(client, LANCELOT)) == new


async def test_a_worker_that_cannot_read_its_keys_lists_no_revoked_one(
    app: FastAPI, client: AsyncClient, command: Callable[..., str]
) -> None:
    await register(client, LANCELOT)
    old = kid_of(await log_in(client, LANCELOT))
    async with app.state.database.session() as session:
        await asyncio.to_thread(command, "revoke", old, "--yes")
        await session.execute(text("ALTER TABLE signing_keys RENAME TO lost"))
        await session.commit()
        async with asyncio.timeout(10):
            while (await client.get("/revocations")).status_code == 200:
                await asyncio.sleep(0.005)
        for path in ("/revocations", "/.well-known/jwks.json"):
            assert_problem(await client.get(path), 503, "temporarily_unavailable")
        await session.execute(text("ALTER TABLE lost RENAME TO signing_keys"))
        await session.commit()
    assert await revoked(client) == [f"kid:{old}"]
    assert old not in await published(client)


@on_sqlite
async def test_a_kid_in_another_format_is_rejected_without_reading_the_keys(
    app: FastAPI, client: AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app.state.key_refresher, "_refresh_since", None)  # a call would fail
    for kid in ("nobody", "0123456789ABCDEF", "0" * 15, "0" * 17, ""):
        assert not await token_is_valid(client, with_unknown_key(kid))
