"""A wrong password of a logged-in user counts as a failed login."""

from dataclasses import replace

import pytest
from fastapi import FastAPI
from httpx import AsyncClient, Response

from app.security.rate_limits import service as rate_limits
from app.security.rate_limits.limits import ACCOUNT_AT_ADDRESS, Rate
from tests.support.apps import client_of
from tests.support.markers import on_sqlite
from tests.support.users import LANCELOT, assert_problem, bearer, log_in, register
from tests.support.waiting import until

PERSON = {**LANCELOT, "username": "Lancelot du LAC"}  # compared in another spelling


async def change_email(client: AsyncClient, token: str, password: str) -> Response:
    sent = {"password": password, "email": "lake@avalon.example"}
    return await client.patch("/me", json=sent, headers=bearer(token))


@on_sqlite
async def test_failures_block_a_login_and_a_success_clears_them(
    client: AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rate_limits, "ACCOUNT_AT_ADDRESS", replace(ACCOUNT_AT_ADDRESS, allowed=3))
    await register(client, PERSON)
    token = await log_in(client, PERSON)
    for _ in range(2):
        for _ in range(2):
            assert_problem(await change_email(client, token, "wrong"), 403, "wrong_password")
        assert (await change_email(client, token, PERSON["password"])).status_code == 200
    for _ in range(3):
        assert_problem(await change_email(client, token, "wrong"), 403, "wrong_password")
    refused = await client.post("/token", json=PERSON)
    assert_problem(refused, 429, "too_many_attempts")


@on_sqlite
async def test_failures_from_any_number_of_addresses_count_towards_the_logins_of_the_account(
    app: FastAPI, client: AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody with a stolen token has as many guesses as the account has logins."""
    monkeypatch.setattr(rate_limits, "LOGINS_PER_WRITE", 1)
    monkeypatch.setattr(app.state.services.login_limiter, "actions", Rate.hourly(3))
    await register(client, PERSON)
    token = await log_in(client, PERSON)
    guesses = []
    for number in range(4):
        async with client_of(app, f"192.0.{number}.1") as elsewhere:
            guesses.append((await change_email(elsewhere, token, "wrong")).status_code)
    assert guesses == [403, 403, 429, 429]  # the login was the first of three


@on_sqlite
async def test_while_a_password_is_checked_the_request_holds_no_database_connection(
    app: FastAPI, client: AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    await register(client, PERSON)
    token = await log_in(client, PERSON)
    passwords, pool = app.state.services.passwords, app.state.database.engine.pool
    verify, verified = passwords.verify, []

    async def verify_without_connection(password: str, password_hash: str) -> bool:
        await until(lambda: pool.checkedout() == 0)  # a background job may have one for a moment
        verified.append(password)
        right: bool = await verify(password, password_hash)
        return right

    monkeypatch.setattr(passwords, "verify", verify_without_connection)
    assert (await change_email(client, token, PERSON["password"])).status_code == 200
    assert verified == [PERSON["password"]]
