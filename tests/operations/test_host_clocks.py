"""A host whose clock is wrong harms nobody on other hosts: times that hosts compare are taken from
the database's clock. Here the database's clock is its own, and so the real one."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

import pytest
from fastapi import FastAPI
from httpx import AsyncClient
from sqlalchemy import select, update

from app.context import RequestContext
from app.credentials.second_factors.models import SecondFactor
from app.credentials.second_factors.service import FORGIVEN_AFTER
from app.credentials.sessions.models import Session
from app.database import fast_queries
from app.database.engine import Database, begin_write
from app.database.job_lock import JobLock
from app.events import Events
from app.mail.models import OutgoingMail
from app.mail.service import enqueue_request
from app.mail.worker import MailWorker
from app.main import create_app
from app.security.one_time_codes.models import Code
from app.security.rate_limits.limits import ACCOUNT
from app.security.rate_limits.models import AttemptCounter
from app.security.rate_limits.service import LOGINS_PER_WRITE
from app.settings import Settings
from app.tokens.signing_keys.models import StoredKey
from app.tokens.signing_keys.store import KeyStore
from tests.support.apps import client_of
from tests.support.authenticator import STEP, enroll, log_in_with
from tests.support.settings import Clock, utc_now
from tests.support.users import (
    ARTHUR,
    GALAHAD,
    LANCELOT,
    assert_problem,
    bearer,
    log_in,
    open_session,
    register,
    renew,
)

pytestmark = pytest.mark.locked_jobs  # what a host with a wrong clock would do by itself

HOUR = timedelta(hours=1)
WRONG_BY = pytest.mark.parametrize("wrong_by", [2 * HOUR, 24 * HOUR, -2 * HOUR], ids=str)
WRONG = {**LANCELOT, "password": "wrong"}
ADDRESS = "192.0.2.7"


def wrong_clock(wrong_by: timedelta) -> Clock:
    clock = Clock()
    clock.now = utc_now() + wrong_by
    return clock


@asynccontextmanager
async def host(
    settings: Settings, wrong_by: timedelta = timedelta(0), database_clock: Clock | None = None
) -> AsyncIterator[tuple[FastAPI, AsyncClient]]:
    app = create_app(settings, wrong_clock(wrong_by), database_clock)
    async with app.router.lifespan_context(app), client_of(app, ADDRESS) as client:
        yield app, client


async def test_the_time_is_the_databases_in_a_transaction_as_well(settings: Settings) -> None:
    database = Database(settings)
    async with database.session() as session:
        before = utc_now() - timedelta(milliseconds=1)  # SQLite's has whole ones
        alone = await fast_queries.current_time(session)
        await begin_write(session)
        first = await fast_queries.current_time(session)
        async with asyncio.timeout(10):  # later statements of a transaction have a later time
            while (second := await fast_queries.current_time(session)) == first:
                pass
    assert before <= alone <= first < second <= utc_now()
    assert second.tzinfo is UTC
    await database.close()


async def use_every_rate(client: AsyncClient, name: str) -> None:
    """Registrations, logins, revocations, invitations and renewals; those of one session are
    renewed on one host only, since a session that another one made may not have begun there."""
    await register(client, {**GALAHAD, "username": name})
    for _ in range(LOGINS_PER_WRITE):
        token = await log_in(client, ARTHUR)
    assert (await client.post("/revoke", data={"token": token})).status_code == 200
    headers = bearer(await log_in(client, ARTHUR))
    assert (await client.post("/invitations", json={}, headers=headers)).status_code == 201
    session = await open_session(client, ARTHUR)
    assert (await renew(client, session["refresh_token"])).status_code == 200


@WRONG_BY
async def test_a_wrong_clock_of_a_host_blocks_no_rate_limited_call(
    settings: Settings, wrong_by: timedelta
) -> None:
    """Elsewhere, nor do other hosts there."""
    async with host(settings, wrong_by) as (_, wrong), host(settings) as (_, right):
        await use_every_rate(wrong, "first")
        await use_every_rate(right, "second")
        await use_every_rate(wrong, "third")


@WRONG_BY
async def test_a_session_renews_on_another_host(settings: Settings, wrong_by: timedelta) -> None:
    async with host(settings, wrong_by) as (_, wrong), host(settings) as (_, right):
        hosts = [right, wrong, right, wrong]
        token = (await open_session(right, ARTHUR))["refresh_token"]
        for client in hosts:
            renewal = await renew(client, token)
            assert renewal.status_code == 200, renewal.text
            token = renewal.json()["refresh_token"]


@WRONG_BY
async def test_delays_are_equally_long_on_all_hosts(
    settings: Settings, clock: Clock, wrong_by: timedelta
) -> None:
    """Neither does a wrong host delay for longer, nor can a guesser go there to be let through."""
    async with (
        host(settings, database_clock=clock) as (_, right),
        host(settings, wrong_by, clock) as (_, wrong),
    ):
        for _ in range(ACCOUNT.allowed):
            assert (await right.post("/token", json=WRONG)).status_code == 401
        for seconds in (1, 2, 4, 8):
            for client in (wrong, right):
                answer = await client.post("/token", json=WRONG)
                assert_problem(answer, 429, "too_many_attempts")
                assert answer.headers["Retry-After"] == str(seconds)
            clock.advance(timedelta(seconds=seconds))
            assert (await wrong.post("/token", json=WRONG)).status_code == 401


JOBS = ("housekeeping", "key_rotation")


async def hold_locks(database: Database, expires_at: datetime) -> None:
    """As some other worker."""
    async with database.session() as session:
        await begin_write(session)
        for name in JOBS:
            await session.merge(JobLock(name=name, holder="other", expires_at=expires_at))
        await session.commit()


async def lock_holders(database: Database) -> list[str]:
    async with database.session() as session:
        locks = await session.scalars(select(JobLock).where(JobLock.name.in_(JOBS)))
        return [lock.holder for lock in locks]


async def kept(database: Database) -> list[list[str | int]]:
    """The primary keys of what is kept, table by table."""
    columns = (StoredKey.kid, Session.id, Code.id, AttemptCounter.key, SecondFactor.user_id)
    async with database.session() as session:
        return [list(await session.scalars(select(column).order_by(column))) for column in columns]


@pytest.mark.parametrize("ahead", [3 * HOUR, 24 * HOUR], ids=str)
async def test_a_host_that_is_ahead_purges_nothing_that_others_need(
    settings: Settings, ahead: timedelta
) -> None:
    """Not the key that signs until the announced one does, to begin with."""
    daily = settings.model_copy(update={"key_rotation_days": 1})
    async with host(daily) as (app, client):
        database: Database = app.state.database
        await register(client, LANCELOT)
        token = await log_in(client, LANCELOT)
        session = await open_session(client, LANCELOT)
        proof = {"password": LANCELOT["password"]}
        answer = await client.post("/me/second-factor", json=proof, headers=bearer(token))
        assert answer.status_code == 201
        arthurs = bearer(await log_in(client, ARTHUR))
        assert (await client.post("/invitations", json={}, headers=arthurs)).status_code == 201
        await client.post("/token", json=WRONG)
        async with database.session() as opened:
            await KeyStore(daily).rotate(RequestContext(opened, utc_now()))
            await begin_write(opened)
            for table in (Session, Code, AttemptCounter):
                await opened.execute(update(table).values(expires_at=utc_now() + HOUR))
            await opened.commit()
        before = await kept(database)
        assert all(before)
        await hold_locks(database, utc_now() - HOUR)
        async with host(daily, ahead):
            pass  # it ends after its first round
        assert "other" not in await lock_holders(database)
        assert await kept(database) == before
        answer = await renew(client, session["refresh_token"])
        assert answer.status_code == 200


@pytest.mark.parametrize("ahead", [3 * HOUR, 24 * HOUR], ids=str)
async def test_a_host_that_is_ahead_takes_no_lock_that_another_one_holds(
    settings: Settings, database: Database, ahead: timedelta
) -> None:
    await hold_locks(database, utc_now() + timedelta(minutes=4))
    async with host(settings, ahead):
        pass  # it ends after its first round
    assert await lock_holders(database) == ["other", "other"]


@WRONG_BY
async def test_wrong_codes_are_forgotten_equally_soon_on_all_hosts(
    settings: Settings, clock: Clock, wrong_by: timedelta
) -> None:
    """Those of a second factor."""
    async with (
        host(settings, database_clock=clock) as (_, right),
        host(settings, wrong_by, clock) as (_, wrong),
    ):
        await register(right, LANCELOT)
        lancelots = await enroll(right, LANCELOT, wrong_clock(timedelta(0)))
        steps = [steps + wrong_by // STEP for steps in range(-9, 10)] + list(range(-9, 10))
        valid = {lancelots.code(ahead) for ahead in steps}  # on either host
        guess = next(code for code in map("{:06}".format, range(50)) if code not in valid)

        async def answers() -> list[int]:
            guesses = [await log_in_with(client, LANCELOT, guess) for client in (wrong, right)]
            return [answer.status_code for answer in guesses]

        assert [await answers() for _ in range(2)] == [[401, 401]] * 2
        assert await answers() == [401, 429]
        assert await answers() == [429, 429]
        clock.advance(FORGIVEN_AFTER)
        assert await answers() == [401, 429]


@WRONG_BY
async def test_mail_is_due_at_once_on_all_hosts_and_claimed_once(
    settings: Settings, wrong_by: timedelta
) -> None:
    async with host(settings, wrong_by) as (app, _), host(settings) as (right, _):
        async with app.state.database.session() as session:
            await begin_write(session)
            await enqueue_request(RequestContext(session, utc_now()), "nobody@camelot.example")
            await session.commit()
            due_at = await session.scalar(select(OutgoingMail.due_at))
        assert due_at
        assert due_at <= utc_now()
        postmen = [
            MailWorker(each.state.database, settings, Events(), each.state.clock)
            for each in (app, right)
        ]
        async with right.state.database.session() as session:
            letter_id = await session.scalar(select(OutgoingMail.id)) or 0
            first, *others = [await postman.claim(session, letter_id) for postman in postmen * 2]
        assert first is not None
        assert others == [None] * 3
