"""Data that is no longer needed is deleted, in small batches, by one worker at a time."""

import asyncio
import secrets
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from fastapi import FastAPI
from httpx import AsyncClient
from sqlalchemy import event, select, text, update
from sqlalchemy.orm import InstrumentedAttribute

from app.background_jobs import BackgroundJobs
from app.context import RequestContext
from app.credentials.api_keys.models import ApiKey
from app.credentials.sessions.models import Session
from app.database import job_lock
from app.database.engine import Database, begin_write
from app.database.job_lock import LOCK_PERIOD, JobLock, LockedJob
from app.maintenance.retention import service
from app.maintenance.retention.service import Retention
from app.security.one_time_codes.models import Code
from app.settings import Settings
from app.tokens.revocations.models import Feed, Revocation
from app.tokens.signing_keys.models import StoredKey
from app.tokens.signing_keys.rotation import KeyRotation
from app.tokens.signing_keys.store import KeyStore
from app.users.models import User
from tests.support.markers import on_postgresql, on_sqlite
from tests.support.settings import Clock
from tests.support.users import (
    GALAHAD,
    LANCELOT,
    bearer,
    open_session,
    refresh,
    register,
    token_is_valid,
)
from tests.support.waiting import until

SECOND = timedelta(seconds=1)
DAY = timedelta(days=1)


@pytest.fixture
def retention(database: Database, settings: Settings) -> Retention:
    """The job of one worker."""
    return Retention(database, settings)


async def store(database: Database, *rows: object) -> None:
    async with database.session() as session:
        await begin_write(session)
        session.add_all(rows)
        await session.commit()


async def stored(database: Database, column: InstrumentedAttribute[Any]) -> Sequence[Any]:
    async with database.session() as session:
        return (await session.scalars(select(column).order_by(column))).all()


def revocation(position: int, expires_at: datetime) -> Revocation:
    return Revocation(position=position, value=f"jti:{position}", expires_at=expires_at)


async def set_head(database: Database, position: int) -> None:
    """Set the position of the feed, as if that many revocations had been published."""
    async with database.session() as session:
        await begin_write(session)
        await session.execute(update(Feed).values(position=position))
        await session.commit()


def user_named(name: str, epoch: int, now: datetime) -> User:
    return User(
        username=name,
        username_folded=name,
        password_hash="",
        is_admin=False,
        token_version=epoch,
        created_at=now,
    )


def session_of(user: User, epoch: int, expires_at: datetime) -> Session:
    return Session(
        id=secrets.token_hex(8),
        user_id=user.id,
        token_version=epoch,
        scope="offline_access",
        handle=secrets.token_hex(16),
        secret_hash=b"",
        rotation_key=b"",
        rotated_at=expires_at,
        created_at=expires_at,
        expires_at=expires_at,
        ip_address="",
        user_agent="",
    )


async def test_expired_revocations_are_deleted_in_batches_and_the_others_stay(
    database: Database, clock: Clock, retention: Retention, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Expired by the database's clock: a host whose clock is ahead must not delete valid ones."""
    monkeypatch.setattr(service, "BATCH_SIZE", 4)
    live = list(range(50, 60))
    now = datetime.now(UTC)
    await store(
        database,
        *(revocation(position, now - SECOND) for position in range(2 * 4 + 1)),
        *(revocation(position, now + timedelta(minutes=5)) for position in live),
    )
    await set_head(database, live[-1])
    clock.now = now + timedelta(hours=2)
    batches = []

    def count(cursor: Any, statement: str) -> None:
        if statement.startswith("DELETE FROM revocations"):
            batches.append(cursor.rowcount)

    event.listen(
        database.engine.sync_engine,
        "after_cursor_execute",
        lambda _connection, cursor, statement, *_: count(cursor, statement),
    )
    assert await retention.run_once()
    assert await stored(database, Revocation.position) == live
    assert len(batches) == 3


async def test_the_newest_revocation_stays_when_it_has_expired(
    database: Database, retention: Retention
) -> None:
    """All waiting listeners have its position as their cursor. In an idle service they wait for
    days."""
    long_ago = datetime.now(UTC) - 90 * DAY
    await store(database, *(revocation(position, long_ago) for position in (1, 2, 3)))
    await set_head(database, 3)
    assert await retention.run_once()
    assert await stored(database, Revocation.position) == [3]
    await store(database, revocation(4, long_ago + 180 * DAY))
    await set_head(database, 4)
    assert await retention.run_once()
    assert await stored(database, Revocation.position) == [4]


async def test_expired_and_revoked_sessions_are_deleted_and_the_others_stay(
    database: Database, clock: Clock, retention: Retention, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "BATCH_SIZE", 2)
    lancelot, galahad = user_named("lancelot", 1, clock()), user_named("galahad", 0, clock())
    await store(database, lancelot, galahad)
    tomorrow = clock() + DAY
    live = [session_of(lancelot, 1, tomorrow), session_of(galahad, 0, clock() + SECOND)]
    await store(
        database,
        *live,
        *(session_of(lancelot, 0, tomorrow) for _ in range(3)),
        *(session_of(galahad, 0, clock()) for _ in range(3)),
    )
    assert await retention.run_once()
    assert await stored(database, Session.id) == sorted(session.id for session in live)


async def test_each_run_compares_a_limited_number_of_sessions_with_their_users(
    database: Database, clock: Clock, retention: Retention, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "SESSIONS_PER_RUN", 2)
    lancelot = user_named("lancelot", 1, clock())
    await store(database, lancelot)

    async def add(*ids: str) -> None:
        sessions = [session_of(lancelot, 0, clock() + DAY) for _ in ids]
        for session, id_ in zip(sessions, ids, strict=True):
            session.id = id_
        await store(database, *sessions)

    await add("1", "2", "3", "4", "5")
    left = []
    for _ in range(4):
        assert await retention.run_once()
        left.append(await stored(database, Session.id))
        if len(left) == 1:
            await add("0")  # which comes again after the last one
    assert left == [["3", "4", "5"], ["0", "5"], ["0"], []]


@on_postgresql
async def test_rows_that_others_have_locked_are_left_to_the_next_run(
    database: Database, clock: Clock, retention: Retention
) -> None:
    expired = [
        Code(
            purpose="invite",
            code_hash=secrets.token_bytes(32),
            scopes="",
            created_at=clock(),
            expires_at=clock(),
        )
        for _ in range(2)
    ]
    await store(database, *expired)
    async with database.session() as session:
        await begin_write(session)
        locked = select(Code.id).where(Code.id == expired[0].id).with_for_update()
        await session.scalar(locked)
        assert await retention.run_once()  # without waiting
        assert await stored(database, Code.id) == [expired[0].id]
    assert await retention.run_once()
    assert await stored(database, Code.id) == []


async def test_expired_codes_are_deleted_and_the_others_stay(
    database: Database, clock: Clock, retention: Retention
) -> None:
    codes = [
        Code(
            purpose="invite",
            code_hash=secrets.token_bytes(32),
            scopes="",
            created_at=clock() - DAY,
            expires_at=clock() + number * SECOND,
        )
        for number in (-1, 0, 1)
    ]
    await store(database, *codes)
    assert await retention.run_once()
    assert await stored(database, Code.id) == [codes[2].id]


async def test_api_keys_are_deleted_90_days_after_they_expired(
    database: Database, clock: Clock, retention: Retention
) -> None:
    lancelot = user_named("lancelot", 1, clock())
    await store(database, lancelot)
    ends = {"long ago": -90 * DAY, "ended": -90 * DAY + SECOND, "active": DAY}
    api_keys = [
        ApiKey(
            id=f"{number:08}",
            user_id=lancelot.id,
            name=name,
            secret_hash=b"",
            version=1,
            created_at=clock() - 400 * DAY,
            expires_at=clock() + end,
        )
        for number, (name, end) in enumerate(ends.items())
    ]
    await store(database, *api_keys)
    assert await retention.run_once()
    assert await stored(database, ApiKey.name) == ["active", "ended"]


async def test_keys_without_valid_tokens_are_deleted_and_the_others_stay(
    database: Database, settings: Settings, clock: Clock
) -> None:
    rotation = KeyRotation(database, KeyStore(settings))
    async with database.session() as session:
        for _ in range(2):
            await KeyStore(settings).rotate(RequestContext(session, clock()))
            clock.advance(timedelta(minutes=45))
    # The second has signed for 80 minutes, the third for 35.
    assert await rotation.run_once()
    assert await stored(database, StoredKey.generation) == [2, 3]
    clock.advance(timedelta(minutes=26))
    assert await rotation.run_once()
    assert await stored(database, StoredKey.generation) == [3]


def key_rotation(database: Database, settings: Settings) -> KeyRotation:
    return KeyRotation(database, KeyStore(settings))


async def test_one_of_several_workers_runs_a_job_until_it_ends(
    settings: Settings, clock: Clock, subtests: pytest.Subtests
) -> None:
    hosts = [Database(settings, clock) for _ in range(2)]

    async def run_once(workers: list[LockedJob]) -> list[LockedJob]:
        """Returns those that had the lock."""
        results = await asyncio.gather(*(worker.run_once() for worker in workers))
        return [worker for worker, has_run in zip(workers, results, strict=True) if has_run]

    try:
        for job in (Retention, key_rotation):
            with subtests.test(job.__name__):
                workers: list[LockedJob] = [job(host, settings) for host in hosts * 2]
                (owner,) = await run_once(workers)
                for _ in range(2):
                    clock.advance(LOCK_PERIOD - SECOND)
                    assert await run_once(workers) == [owner], "each run extends its lock"
                workers.remove(owner)
                clock.advance(LOCK_PERIOD - SECOND)
                assert await run_once(workers) == []
                clock.advance(SECOND)
                assert len(await run_once(workers)) == 1, "another worker takes the lock"
    finally:
        await asyncio.gather(*(host.close() for host in hosts))


@pytest.mark.locked_jobs
async def test_a_job_runs_again_after_it_failed(
    database: Database,
    clock: Clock,
    retention: Retention,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(job_lock, "INTERVAL_SECONDS", 0.01)
    await store(database, revocation(1, clock() - timedelta(days=1)))
    await set_head(database, 2)
    async with database.session() as session:
        await session.execute(text("ALTER TABLE leases RENAME TO lost"))
        await session.commit()
        jobs = BackgroundJobs()
        jobs.start(retention.run)
        await until(lambda: "The job housekeeping failed" in caplog.text)
        await session.execute(text("ALTER TABLE lost RENAME TO leases"))
        await session.commit()
    async with asyncio.timeout(10):
        while await stored(database, Revocation.position):
            await asyncio.sleep(0.01)
    await jobs.stop()


@pytest.mark.locked_jobs
async def test_a_started_app_runs_its_jobs(app: FastAPI) -> None:
    async with app.state.database.session() as session, asyncio.timeout(60):
        while set(await session.scalars(select(JobLock.name))) != {"housekeeping", "key_rotation"}:
            await session.rollback()
            await asyncio.sleep(0.01)


@on_sqlite
async def test_the_jobs_change_nothing_that_a_client_can_see(
    app: FastAPI, client: AsyncClient, clock: Clock
) -> None:
    await register(client, LANCELOT)
    await register(client, GALAHAD)
    ended, revoked = await open_session(client, LANCELOT), await open_session(client, GALAHAD)
    await client.post("/me/logout-everywhere", headers=bearer(ended["token"]))
    await client.post("/revoke", data={"token": revoked["token"]})
    clock.advance(timedelta(minutes=59))
    session = await open_session(client, LANCELOT)
    feed = (await client.get("/revocations")).json()
    for job in (Retention, key_rotation):
        assert await job(app.state.database, app.state.settings).run_once()
    assert (await client.get("/revocations")).json() == feed
    for refused in (ended, revoked):
        assert not await token_is_valid(client, refused["token"])
    assert await token_is_valid(client, session["token"])
    for refresh_token, status in [(ended, 400), (revoked, 200), (session, 200)]:
        response = await refresh(client, refresh_token["refresh_token"])
        assert response.status_code == status
