"""Delays after failed logins: the same for known and unknown users. Nobody can lock out another
user."""

from dataclasses import replace
from datetime import timedelta
from itertools import count
from threading import Semaphore

import pytest
from fastapi import FastAPI
from httpx import AsyncClient

from app.accounts.registration import service as registration_service
from app.security.rate_limits.limits import ACCOUNT, ACCOUNT_AT_ADDRESS, ADDRESS, REGISTRATION
from app.security.rate_limits.service import KNOWN_FOR
from tests.support.apps import client_of
from tests.support.login_attempts import (
    ELSEWHERE,
    HOME,
    SMALL_LIMITS,
    WRONG,
    log_in_at,
    nobody,
    set_small_limits,
    statuses,
)
from tests.support.markers import on_sqlite
from tests.support.settings import Clock
from tests.support.users import ARTHUR, GALAHAD, LANCELOT, assert_problem, register

SECOND, DAY = timedelta(seconds=1), timedelta(days=1)


@pytest.fixture
def small_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    set_small_limits(monkeypatch)


async def test_delays_double_up_to_15_minutes_and_a_login_ends_them(
    app: FastAPI, client: AsyncClient, clock: Clock
) -> None:
    await register(client, LANCELOT)
    assert await statuses(app, HOME, WRONG, ACCOUNT.allowed) == [401] * ACCOUNT.allowed
    for seconds in (*(2**number for number in range(10)), 900):
        refused = await log_in_at(app, HOME, LANCELOT)
        assert_problem(refused, 429, "too_many_attempts")
        assert refused.headers["Retry-After"] == str(seconds)
        clock.now += timedelta(seconds=seconds)
        assert (await log_in_at(app, HOME, WRONG)).status_code == 401
    clock.now += timedelta(minutes=15)
    assert (await log_in_at(app, HOME, LANCELOT)).status_code == 200
    assert await statuses(app, HOME, WRONG, ACCOUNT_AT_ADDRESS.allowed) == [401] * 10
    assert (await log_in_at(app, HOME, WRONG)).status_code == 429


@on_sqlite
async def test_an_attempt_whose_password_is_not_checked_is_not_counted(
    app: FastAPI, client: AsyncClient, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    await register(client, LANCELOT)
    await statuses(app, HOME, WRONG, ACCOUNT.allowed)
    clock.now += SECOND
    for missing in ({}, {"require_capacity": lambda: None}):  # before or after the charge
        with monkeypatch.context() as meanwhile:
            passwords = app.state.services.passwords
            meanwhile.setattr(passwords, "_capacity", Semaphore(0))
            for name, instead in missing.items():
                meanwhile.setattr(passwords, name, instead)
            for _ in range(3):
                assert (await log_in_at(app, HOME, LANCELOT)).status_code == 503
    assert (await log_in_at(app, HOME, WRONG)).status_code == 401
    assert (await log_in_at(app, HOME, LANCELOT)).headers["Retry-After"] == "2"  # as after six


@on_sqlite
async def test_unknown_and_known_names_get_the_same_responses(
    app: FastAPI, client: AsyncClient
) -> None:
    for person in (LANCELOT, GALAHAD):
        await register(client, person)
    for kind, names in (("json", ("lancelot", "mordred")), ("data", ("galahad", "gawain"))):
        answers = []
        for name, address in zip(names, (HOME, ELSEWHERE), strict=True):
            body = {"username": name, "password": "wrong"}
            async with client_of(app, address) as guesser:
                for _ in range(ACCOUNT.allowed + 2):
                    answer = await guesser.post("/token", **{kind: body})  # type: ignore[arg-type] # json or data
                    headers = {pair for pair in answer.headers.items() if pair[0] != "x-request-id"}
                    answers.append((answer.status_code, answer.content, headers))
        half = len(answers) // 2
        assert answers[:half] == answers[half:]
        assert answers[-1][0] == 429


@on_sqlite
async def test_an_attack_does_not_slow_down_the_owner_at_a_known_address(
    app: FastAPI, client: AsyncClient, clock: Clock, subtests: pytest.Subtests
) -> None:
    await register(client, LANCELOT)
    with subtests.test("nor does a login there end the delay elsewhere"):
        assert (await log_in_at(app, HOME, LANCELOT)).status_code == 200
        for number in range(ACCOUNT.allowed + 1):
            await log_in_at(app, f"198.51.100.{number}", WRONG)
        assert (await log_in_at(app, ELSEWHERE, LANCELOT)).status_code == 429
        assert (await log_in_at(app, HOME, LANCELOT)).status_code == 200
        # That cleared nothing.
        assert (await log_in_at(app, ELSEWHERE, LANCELOT)).status_code == 429
        clock.now += KNOWN_FOR
        assert (await log_in_at(app, HOME, LANCELOT)).status_code == 200
        clock.now += DAY
        assert (await log_in_at(app, ELSEWHERE, LANCELOT)).status_code == 200
    clock.now += KNOWN_FOR
    with subtests.test("it stays known for 90 days after a login a month later"):
        assert (await log_in_at(app, HOME, LANCELOT)).status_code == 200
        clock.now += 31 * DAY
        assert (await log_in_at(app, HOME, LANCELOT)).status_code == 200
        clock.now += 90 * DAY - SECOND
        await statuses(app, ELSEWHERE, WRONG, 6)
        assert (await log_in_at(app, HOME, LANCELOT)).status_code == 200


@on_sqlite
@pytest.mark.usefixtures("small_limits")
async def test_failures_at_a_known_address_count_there_only_until_the_user_logs_in_there(
    app: FastAPI, client: AsyncClient
) -> None:
    allowed = SMALL_LIMITS["ACCOUNT_AT_ADDRESS"]
    await register(client, LANCELOT)
    for address, person in ((HOME, ARTHUR), (HOME, LANCELOT), (ELSEWHERE, LANCELOT)):
        assert (await log_in_at(app, address, person)).status_code == 200
    arthurs = {**ARTHUR, "password": "wrong"}
    assert await statuses(app, HOME, arthurs, allowed) == [401] * allowed
    for _ in range(2):
        assert await statuses(app, HOME, WRONG, allowed - 1) == [401] * (allowed - 1)
        assert (await log_in_at(app, HOME, LANCELOT)).status_code == 200
    assert (await log_in_at(app, HOME, ARTHUR)).status_code == 429
    assert await statuses(app, HOME, WRONG, allowed) == [401] * allowed
    assert (await log_in_at(app, HOME, LANCELOT)).status_code == 429
    assert (await log_in_at(app, ELSEWHERE, LANCELOT)).status_code == 200


@pytest.mark.usefixtures("small_limits")
async def test_an_address_that_tries_many_names_is_delayed_and_owning_an_account_does_not_help(
    app: FastAPI, client: AsyncClient, clock: Clock
) -> None:
    await register(client, LANCELOT)
    numbers = count()

    async def guess(address: str) -> int:
        return (await log_in_at(app, address, nobody(next(numbers)))).status_code

    for address in (HOME, ELSEWHERE):
        assert [await guess(address) for _ in range(SMALL_LIMITS["ADDRESS"])] == [401] * 5
        assert await guess(address) == 429
    clock.now += SECOND
    assert await guess(ELSEWHERE) == 401
    assert (await log_in_at(app, HOME, LANCELOT)).status_code == 200
    assert await guess(ELSEWHERE) == 429  # whatever succeeds at another address
    clock.now += SECOND
    assert await guess(HOME) == 401
    assert await guess(HOME) == 429
    assert (await log_in_at(app, HOME, LANCELOT)).status_code == 200  # where it is known by now
    clock.now += ADDRESS.window
    assert await guess(HOME) == 401


@on_sqlite
@pytest.mark.usefixtures("small_limits")
async def test_which_addresses_have_a_counter(app: FastAPI, subtests: pytest.Subtests) -> None:
    with subtests.test("the first 64 bits of an IPv6 address"):
        for number in range(SMALL_LIMITS["ADDRESS"]):
            await log_in_at(app, f"2001:db8::{number:x}", nobody(number))
        assert (await log_in_at(app, "2001:db8::ffff:1", nobody(99))).status_code == 429
        assert (await log_in_at(app, "2001:db8:0:1::1", nobody(99))).status_code == 401
    with subtests.test("not this machine's, where failures count for accounts only"):
        for number in range(SMALL_LIMITS["ADDRESS"] + 1):
            assert (await log_in_at(app, "127.0.0.1", nobody(number))).status_code == 401
        assert (await statuses(app, "127.0.0.1", WRONG, SMALL_LIMITS["ACCOUNT"] + 1))[-1] == 429


@on_sqlite
async def test_registrations_are_counted_by_address(
    app: FastAPI, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registration_service, "REGISTRATION", replace(REGISTRATION, allowed=3))
    async with client_of(app, HOME) as client:
        answers = [
            (await client.post("/register-user", json={**GALAHAD, "username": name})).status_code
            for name in ("galahad", "bors", "bors", "percival")
        ]
        assert answers == [201, 201, 409, 429]
        clock.now += REGISTRATION.window
        assert (await client.post("/register-user", json=LANCELOT)).status_code == 201
