"""Rates of logins: a worker counts successful logins of an account in memory, and writes several of
them to the database together.
"""

from collections import Counter
from datetime import timedelta
from typing import Any

import pytest
from fastapi import FastAPI
from httpx import AsyncClient
from sqlalchemy import event, func, select

from app.database.engine import begin_write
from app.security.rate_limits import service
from app.security.rate_limits.limits import (
    ACCOUNT_AT_ADDRESS,
    Rate,
)
from app.security.rate_limits.models import AttemptCounter
from app.security.rate_limits.rates import IS_RATE
from app.security.rate_limits.service import (
    LOGINS_PER_WRITE,
    MAX_UNWRITTEN_ACCOUNTS,
    UnwrittenLogins,
)
from app.settings import Settings
from tests.support.apps import started_client
from tests.support.authenticator import enroll, log_in_with
from tests.support.low_rates import (
    INTERVAL,
    MINUTE,
    PER_HOUR,
    PER_WRITE,
    actions,
    assert_refused,
    settings,
)
from tests.support.markers import on_sqlite
from tests.support.settings import Clock
from tests.support.users import (
    GALAHAD,
    LANCELOT,
    assert_problem,
    bearer,
    log_in,
    register,
)

__all__ = ["settings"]


async def test_logins_of_an_account_share_one_row(
    app: FastAPI, client: AsyncClient, clock: Clock
) -> None:
    await register(client, LANCELOT)
    await register(client, GALAHAD)

    async def rows() -> int:
        query = select(func.count()).where(AttemptCounter.failures == IS_RATE)
        async with app.state.database.session() as session:
            return await session.scalar(query) or 0

    before = await rows()
    for number in range(PER_HOUR):
        assert await rows() == before + (number >= PER_WRITE)
        await log_in(client, LANCELOT)
    assert_refused(await client.post("/token", json=LANCELOT), INTERVAL)
    wrong = {**LANCELOT, "password": "wrong"}
    assert_refused(await client.post("/token", json=wrong), INTERVAL)
    await log_in(client, GALAHAD)
    assert (await actions(app))["login"] == PER_HOUR + 1
    clock.advance(INTERVAL)
    await log_in(client, LANCELOT)
    clock.advance(timedelta(hours=3))  # unused logins do not add up beyond the burst
    answers = [
        (await client.post("/token", json=LANCELOT)).status_code for _ in range(2 * PER_HOUR)
    ]
    assert abs(answers.count(200) - PER_HOUR) < PER_WRITE


@on_sqlite
async def test_confirming_the_password_counts_as_a_login(app: FastAPI, client: AsyncClient) -> None:
    await register(client, LANCELOT)
    headers = bearer(await log_in(client, LANCELOT))
    for number in range(1, PER_HOUR):
        change = {"password": LANCELOT["password"], "email": f"lancelot{number}@camelot.example"}
        assert (await client.patch("/me", json=change, headers=headers)).status_code == 200
    refused = await client.patch("/me", json=change, headers=headers)
    assert_refused(refused, INTERVAL)
    assert (await actions(app))["user.change_email"] == PER_HOUR - 1


@on_sqlite
async def test_a_wrong_current_password_counts_as_a_failed_login(client: AsyncClient) -> None:
    """At each address where its owner has logged in, some failures have no delay. The rate counts
    them all."""
    await register(client, LANCELOT)
    transport: Any = client._transport
    answers: Counter[int] = Counter()
    wrong = {"password": "wrong", "email": None}
    for number in range(PER_HOUR // ACCOUNT_AT_ADDRESS.allowed + 2):
        transport.client = (f"192.0.2.{number}", 1)
        response = await client.post("/token", json=LANCELOT)
        if response.status_code == 200:
            headers = bearer(response.json()["token"])
        for _ in range(ACCOUNT_AT_ADDRESS.allowed):
            answers[(await client.patch("/me", json=wrong, headers=headers)).status_code] += 1
    assert set(answers) == {403, 429}
    assert answers[403] <= PER_HOUR


async def test_counting_most_logins_needs_no_statement(
    app: FastAPI, client: AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The queries of each login, and its row of the audit log, bypass SQLAlchemy's events."""
    monkeypatch.setattr(service, "LOGINS_PER_WRITE", 3)
    await register(client, LANCELOT)
    await log_in(client, LANCELOT)  # which makes the address a known one
    engine = app.state.database.engine.sync_engine
    statements: list[str] = []

    def note(_c: object, _k: object, statement: str, *_: object) -> None:
        statements.append(statement)

    event.listen(engine, "before_cursor_execute", note)
    await log_in(client, LANCELOT)
    counted = [statement for statement in statements if "attempts" in statement]
    assert counted == []
    await log_in(client, LANCELOT)
    event.remove(engine, "before_cursor_execute", note)
    counted = [statement.split()[0] for statement in statements if "attempts" in statement]
    assert counted == ["INSERT", "UPDATE"]


async def test_two_workers_allow_few_more_logins_and_a_restart_none(
    settings: Settings, client: AsyncClient, clock: Clock
) -> None:
    await register(client, LANCELOT)
    answers: Counter[int] = Counter()
    async with started_client(settings, clock) as other:
        for number in range(PER_HOUR + 3 * PER_WRITE):
            response = await (client, other)[number % 2].post("/token", json=LANCELOT)
            answers[response.status_code] += 1
    assert set(answers) == {200, 429}
    assert PER_HOUR <= answers[200] <= PER_HOUR + 2 * PER_WRITE
    async with started_client(settings, clock) as restarted:
        assert (await restarted.post("/token", json=LANCELOT)).status_code == 429


@on_sqlite
async def test_unlocking_an_account_resets_its_logins(app: FastAPI, client: AsyncClient) -> None:
    await register(client, LANCELOT)
    for _ in range(PER_HOUR):
        await log_in(client, LANCELOT)
    assert (await client.post("/token", json=LANCELOT)).status_code == 429
    async with app.state.database.session() as session:
        await begin_write(session)
        await service.clear(session, "lancelot", None)
        await session.commit()
    await log_in(client, LANCELOT)


@on_sqlite
async def test_logins_without_the_code_are_counted_by_themselves(
    app: FastAPI, client: AsyncClient, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.login.password_grant.UNFINISHED_LOGIN", Rate(3, MINUTE))
    await register(client, LANCELOT)
    lancelots = await enroll(client, LANCELOT, clock)
    for _ in range(3):
        refused = await client.post("/token", json=LANCELOT)
        assert_problem(refused, 401, "mfa_required")
    assert_refused(await client.post("/token", json=LANCELOT), MINUTE)
    assert (await actions(app))["second_factor.required"] == 3
    assert (await log_in_with(client, LANCELOT, lancelots.code())).status_code == 200


@on_sqlite
async def test_a_rejected_unfinished_login_is_not_counted(
    client: AsyncClient, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise an attacker with the password could keep the owner locked out."""
    monkeypatch.setattr("app.login.password_grant.UNFINISHED_LOGIN", Rate(1, timedelta(days=1)))
    await register(client, LANCELOT)
    await enroll(client, LANCELOT, clock)
    wrong = {**LANCELOT, "password": "wrong"}
    transport: Any = client._transport
    transport.client = ("192.0.2.7", 1)
    while (await client.post("/token", json=wrong)).status_code == 401:
        pass
    clock.advance(timedelta(minutes=15))
    assert_problem(await client.post("/token", json=LANCELOT), 401, "mfa_required")
    for _ in range(2):
        refused = await client.post("/token", json=LANCELOT)
        assert_refused(refused, timedelta(days=1))


def test_every_twentieth_login_is_written_down() -> None:
    unwritten = UnwrittenLogins()
    for number in range(1, LOGINS_PER_WRITE):
        assert not unwritten.is_due("lancelot")
        assert unwritten.add("lancelot") == number
    assert unwritten.is_due("lancelot")
    assert not unwritten.is_due("galahad")


def test_a_worker_counts_a_limited_number_of_accounts() -> None:
    unwritten = UnwrittenLogins()
    for number in range(MAX_UNWRITTEN_ACCOUNTS + 5):
        assert unwritten.add(str(number)) == 1
    assert len(unwritten._counts) == MAX_UNWRITTEN_ACCOUNTS
    assert unwritten.add(str(MAX_UNWRITTEN_ACCOUNTS)) == 2
    # A known account takes the place of no other one.
    assert len(unwritten._counts) == MAX_UNWRITTEN_ACCOUNTS
    assert unwritten.add("0") == 1  # its place was taken
