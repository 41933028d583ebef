"""A host whose clock is wrong does no harm on other hosts: times that hosts compare are the
database's. Here the database has the real time, unless a test replaces it.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime, timedelta

import pytest
from fastapi import FastAPI
from httpx import AsyncClient
from sqlalchemy import select, update

from app.context import RequestContext
from app.credentials.second_factors.code_checks import FORGIVEN_AFTER
from app.credentials.second_factors.models import SecondFactor
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
from app.security.rate_limits import service as rate_limits
from app.security.rate_limits.limits import ACCOUNT
from app.security.rate_limits.models import AttemptCounter
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
    refresh,
    register,
)

HOUR = timedelta(hours=1)
WRONG_BY = (2 * HOUR, 24 * HOUR, -2 * HOUR)
AHEAD_BY = (3 * HOUR, 24 * HOUR)
WRONG = {**GALAHAD, "password": "wrong"}
ADDRESS = "192.0.2.7"


def wrong_clock(wrong_by: timedelta) -> Clock:
    clock = Clock()
    clock.now = utc_now() + wrong_by
    return clock


Host = tuple[FastAPI, AsyncClient]


@asynccontextmanager
async def host(
    settings: Settings, wrong_by: timedelta = timedelta(0), database_clock: Clock | None = None
) -> AsyncIterator[Host]:
    app = create_app(settings, wrong_clock(wrong_by), database_clock)
    async with app.router.lifespan_context(app), client_of(app, ADDRESS) as client:
        yield app, client


@asynccontextmanager
async def hosts(
    settings: Settings, database_clock: Clock | None = None
) -> AsyncIterator[tuple[Host, list[Host]]]:
    """A host with the right clock, and hosts whose clocks are wrong by WRONG_BY."""
    async with AsyncExitStack() as stack:
        right, *wrong = [
            await stack.enter_async_context(host(settings, wrong_by, database_clock))
            for wrong_by in (timedelta(0), *WRONG_BY)
        ]
        yield right, wrong


async def test_a_transaction_has_the_time_of_the_database_too(settings: Settings) -> None:
    database = Database(settings)
    async with database.session() as session:
        before = utc_now() - timedelta(milliseconds=1)  # SQLite's time has whole milliseconds
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
    """Register, log in, refresh a session, create an invitation, revoke a token: at this host."""
    await register(client, {**GALAHAD, "username": name})
    token = await log_in(client, ARTHUR)
    session = await open_session(client, ARTHUR)
    assert (await refresh(client, session["refresh_token"])).status_code == 200
    invited = await client.post("/invitations", json={}, headers=bearer(token))
    assert invited.status_code == 201
    assert (await client.post("/revoke", data={"token": token})).status_code == 200


async def test_a_wrong_clock_of_a_host_delays_nothing_on_any_host(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, subtests: pytest.Subtests
) -> None:
    monkeypatch.setattr(rate_limits, "LOGINS_PER_WRITE", 2)  # those of use_every_rate
    async with hosts(settings) as (right, wrong):
        clients = [client for _, client in wrong]
        with subtests.test("calls with a rate, also on the wrong host after calls on others"):
            for number, client in enumerate([*clients, right[1], *clients]):
                await use_every_rate(client, f"knight{number}")
        with subtests.test("the renewal of a session on another host"):
            for client in clients:
                token = (await open_session(right[1], ARTHUR))["refresh_token"]
                for each in (right[1], client, right[1], client):
                    renewal = await refresh(each, token)
                    assert renewal.status_code == 200, renewal.text
                    token = renewal.json()["refresh_token"]
        with subtests.test("mail, which one host claims"):
            await queue_and_claim_mail(settings, right, wrong)


async def queue_and_claim_mail(settings: Settings, right: Host, wrong: list[Host]) -> None:
    workers = [
        MailWorker(app.state.database, settings, Events(), app.state.clock)
        for app, _ in (right, *wrong)
    ]
    async with right[0].state.database.session() as session:
        for app, _ in wrong:
            await begin_write(session)
            context = RequestContext(session, app.state.clock())
            await enqueue_request(context, "nobody@camelot.example")
            await session.commit()
            newest = select(OutgoingMail).order_by(OutgoingMail.id.desc()).limit(1)
            mail = await session.scalar(newest)
            assert mail
            assert mail.due_at <= utc_now()
            first, *others = [await worker.claim(session, mail.id) for worker in workers * 2]
            assert first is not None
            assert others == [None] * 7


JOBS = ("housekeeping", "key_rotation")


async def hold_locks(database: Database, expires_at: datetime) -> None:
    """As another worker."""
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
    """The primary keys of the rows, table by table."""
    columns = (StoredKey.kid, Session.id, Code.id, AttemptCounter.key, SecondFactor.user_id)
    async with database.session() as session:
        return [list(await session.scalars(select(column).order_by(column))) for column in columns]


@pytest.mark.locked_jobs
async def test_a_host_that_is_ahead_purges_nothing_that_others_need(settings: Settings) -> None:
    """For example the key that signs until the announced one does."""
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
        for ahead in AHEAD_BY:
            await hold_locks(database, utc_now() - HOUR)
            async with host(daily, ahead):
                pass  # its jobs stop after their first run
            assert "other" not in await lock_holders(database), ahead
            assert await kept(database) == before, ahead
        answer = await refresh(client, session["refresh_token"])
        assert answer.status_code == 200


@pytest.mark.locked_jobs
async def test_a_host_that_is_ahead_takes_no_lock_that_another_one_holds(
    settings: Settings, database: Database
) -> None:
    await hold_locks(database, utc_now() + timedelta(minutes=4))
    for ahead in AHEAD_BY:
        async with host(settings, ahead):
            pass  # its jobs stop after their first run
        assert await lock_holders(database) == ["other", "other"], ahead


async def test_delays_are_equally_long_on_all_hosts(
    settings: Settings, clock: Clock, subtests: pytest.Subtests
) -> None:
    async with hosts(settings, clock) as ((_, right), wrong):
        clients = [right, *(client for _, client in wrong)]
        with subtests.test("after wrong codes, which are forgiven equally soon"):
            await guess_codes(clients, clock)
        with subtests.test("after wrong passwords, also to a guesser who changes hosts"):
            await guess_passwords(clients, clock)


async def guess_codes(clients: list[AsyncClient], clock: Clock) -> None:
    await register(clients[0], LANCELOT)
    lancelots = await enroll(clients[0], LANCELOT, wrong_clock(timedelta(0)))
    steps = [
        step + wrong_by // STEP for wrong_by in (timedelta(0), *WRONG_BY) for step in range(-9, 10)
    ]
    valid = {lancelots.code(ahead) for ahead in steps}  # on any host
    guess = next(code for code in map("{:06}".format, range(99)) if code not in valid)

    async def guess_everywhere() -> list[int]:
        answers = [await log_in_with(client, LANCELOT, guess) for client in order]
        return [answer.status_code for answer in answers]

    order = [*clients]
    assert await guess_everywhere() == [401] * 4
    assert await guess_everywhere() == [401] + [429] * 3  # the fifth one is the last
    for _ in clients:
        clock.advance(FORGIVEN_AFTER)
        order.append(order.pop(0))
        assert await guess_everywhere() == [401] + [429] * 3


async def guess_passwords(clients: list[AsyncClient], clock: Clock) -> None:
    right, *wrong = clients
    for _ in range(ACCOUNT.allowed):
        assert (await right.post("/token", json=WRONG)).status_code == 401
    for seconds, next_client in zip((1, 2, 4), wrong, strict=True):
        for client in clients:
            answer = await client.post("/token", json=WRONG)
            assert_problem(answer, 429, "too_many_attempts")
            assert answer.headers["Retry-After"] == str(seconds)
        clock.advance(timedelta(seconds=seconds))
        assert (await next_client.post("/token", json=WRONG)).status_code == 401
