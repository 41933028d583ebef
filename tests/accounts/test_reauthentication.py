"""With a second factor, the password and a token are not enough to change an account."""

from collections.abc import Iterator
from dataclasses import replace
from itertools import cycle
from typing import Any

import pytest
from httpx import AsyncClient, Response

from app.credentials.second_factors.code_checks import BURST
from app.security.rate_limits import service as rate_limits
from app.security.rate_limits.limits import ACCOUNT_AT_ADDRESS
from tests.support.authenticator import Authenticator, enroll, log_in_with, token_with
from tests.support.markers import on_sqlite
from tests.support.settings import Clock
from tests.support.users import (
    ARTHUR,
    LANCELOT,
    Person,
    assert_problem,
    bearer,
    log_in,
    register,
    token_is_valid,
)

PASSWORD = LANCELOT["password"]
NEW = "guinevere in the garden"

# One user can make them in this order.
CALLS: dict[str, tuple[str, str, dict[str, str]]] = {
    "a new address": ("PATCH", "/me", {"email": "lake@avalon.example"}),
    "a new password": ("POST", "/me/password", {"new_password": NEW}),
    "removal": ("DELETE", "/me", {}),
}


async def with_second_factor(
    client: AsyncClient, clock: Clock, person: Person = LANCELOT
) -> tuple[Authenticator, str]:
    await register(client, person)
    authenticator = await enroll(client, person, clock)
    return authenticator, await token_with(client, person, authenticator.code())


async def call(client: AsyncClient, token: str, method: str, path: str, **body: Any) -> Response:
    return await client.request(method, path, json=body, headers=bearer(token))


async def assert_unchanged(client: AsyncClient, person: Person, token: str) -> None:
    profile = await client.get("/me", headers=bearer(token))
    assert profile.json()["email"] == LANCELOT["email"]
    # A code is required only after the right password, so the old one is still right.
    assert_problem(await client.post("/token", json=person), 401, "mfa_required")


@on_sqlite
async def test_without_a_code_nothing_changes(
    client: AsyncClient, clock: Clock, subtests: pytest.Subtests
) -> None:
    _, token = await with_second_factor(client, clock)
    for name, (method, path, members) in CALLS.items():
        with subtests.test(name):
            for otp in ({}, {"otp": None}):
                refused = await call(
                    client, token, method, path, password=PASSWORD, **members, **otp
                )
                assert_problem(refused, 403, "mfa_required")
            await assert_unchanged(client, LANCELOT, token)
            audit = (await client.get("/me/audit", headers=bearer(token))).json()["entries"]
            last_two = [entry["action"] for entry in audit[:2]]
            assert last_two == ["second_factor.required"] * 2


@on_sqlite
async def test_the_code_is_checked_only_after_the_correct_password(
    client: AsyncClient, clock: Clock, subtests: pytest.Subtests
) -> None:
    authenticator, token = await with_second_factor(client, clock)
    code = authenticator.next_code()
    for name, (method, path, members) in CALLS.items():
        with subtests.test(name):
            for sent in ({}, {"otp": authenticator.wrong_code()}, {"otp": code}):
                body = {"password": "wrong", **members, **sent}
                refused = await call(client, token, method, path, **body)
                assert_problem(refused, 403, "wrong_password")
    # None of them used up the right code.
    assert (await log_in_with(client, LANCELOT, code)).status_code == 200


@on_sqlite
async def test_the_change_with_a_code_succeeds_once(
    client: AsyncClient, clock: Clock, subtests: pytest.Subtests
) -> None:
    for by_recovery_code in (False, True):
        person = {**LANCELOT, "username": f"lancelot {by_recovery_code}"}
        authenticator, token = await with_second_factor(client, clock, person)
        recovery_codes = iter(authenticator.recovery_codes)

        def next_code(
            authenticator: Authenticator = authenticator,
            recovery_codes: Iterator[str] = recovery_codes,
            *,
            by_recovery_code: bool = by_recovery_code,
        ) -> str:
            return next(recovery_codes) if by_recovery_code else authenticator.next_code()

        for name, (method, path, members) in CALLS.items():
            with subtests.test(name, by_recovery_code=by_recovery_code):
                body = {"password": person["password"], "otp": next_code()}
                done = await call(client, token, method, path, **body, **members)
                assert done.status_code == 200, done.text
                if method == "PATCH":
                    again = await call(client, token, method, path, **body, email="")
                    assert_problem(again, 403, "wrong_code")
                    profile = await client.get("/me", headers=bearer(token))
                    assert profile.json()["email"] == members["email"]
                    continue
                assert not await token_is_valid(client, token)
                if name == "a new password":
                    person = {**person, "password": NEW}
                again = await log_in_with(client, person, body["otp"])
                assert_problem(again, 401, "invalid_grant")
                if name == "a new password":
                    token = await token_with(client, person, next_code())


@on_sqlite
async def test_wrong_codes_count_as_at_a_login(
    client: AsyncClient, clock: Clock, subtests: pytest.Subtests
) -> None:
    """Those of all calls together."""
    authenticator, token = await with_second_factor(client, clock)
    person = LANCELOT
    wrong = authenticator.wrong_code()
    for _, (method, path, members) in zip(range(BURST), cycle(CALLS.values())):
        body = {"password": PASSWORD, **members}
        refused = await call(client, token, method, path, **body, otp=wrong)
        assert_problem(refused, 403, "wrong_code")
    right = authenticator.next_code()
    for name, (method, path, members) in CALLS.items():
        with subtests.test(f"{name} with the right code"):
            body = {"password": PASSWORD, **members}
            refused = await call(client, token, method, path, **body, otp=right)
            assert_problem(refused, 429, "too_many_codes")
            assert int(refused.headers["Retry-After"]) > 0
    assert_problem(await log_in_with(client, person, right), 429, "too_many_codes")
    await assert_unchanged(client, person, token)
    audit = (await client.get("/me/audit", headers=bearer(token))).json()["entries"]
    failed = [entry for entry in audit if entry["details"].get("reason") == "wrong code"]
    assert len(failed) == BURST
    # Nobody guesses a recovery code, so the limit does not lock the owner out.
    recovery_codes = iter(authenticator.recovery_codes)
    for name, (method, path, members) in CALLS.items():
        with subtests.test(f"{name} with a recovery code"):
            body = {"password": person["password"], **members}
            done = await call(client, token, method, path, **body, otp=next(recovery_codes))
            assert done.status_code == 200, done.text
            if name == "a new password":
                person = {**person, "password": NEW}
                token = await token_with(client, person, next(recovery_codes))


@on_sqlite
async def test_wrong_passwords_are_limited_with_any_code(
    client: AsyncClient, clock: Clock, monkeypatch: pytest.MonkeyPatch, subtests: pytest.Subtests
) -> None:
    limit = replace(ACCOUNT_AT_ADDRESS, allowed=len(CALLS))
    monkeypatch.setattr(rate_limits, "ACCOUNT_AT_ADDRESS", limit)
    authenticator, token = await with_second_factor(client, clock)
    otp = authenticator.next_code()
    for method, path, members in CALLS.values():
        refused = await call(client, token, method, path, password="wrong", otp=otp, **members)
        assert_problem(refused, 403, "wrong_password")
    for name, (method, path, members) in CALLS.items():
        with subtests.test(name):
            refused = await call(client, token, method, path, password=PASSWORD, otp=otp, **members)
            assert_problem(refused, 429, "too_many_attempts")


@on_sqlite
async def test_a_user_without_a_second_factor_needs_no_code(
    client: AsyncClient, subtests: pytest.Subtests
) -> None:
    person = LANCELOT
    await register(client, person)
    token = await log_in(client, person)
    for name, (method, path, members) in CALLS.items():
        with subtests.test(name):
            body = {"password": person["password"], "otp": "123456", **members}
            done = await call(client, token, method, path, **body)
            assert done.status_code == 200, done.text
            if name == "a new password":
                person = {**person, "password": NEW}
                token = await log_in(client, person)


@on_sqlite
async def test_an_unconfirmed_second_factor_asks_for_no_code(client: AsyncClient) -> None:
    await register(client, LANCELOT)
    token = await log_in(client, LANCELOT)
    begun = await call(client, token, "POST", "/me/second-factor", password=PASSWORD)
    assert begun.status_code == 201
    assert (await call(client, token, "PATCH", "/me", password=PASSWORD, email="")).json()


@on_sqlite
async def test_an_administrator_needs_the_second_factor_too(
    client: AsyncClient, clock: Clock
) -> None:
    authenticator = await enroll(client, ARTHUR, clock)
    token = await token_with(client, ARTHUR, authenticator.code())
    refused = await call(
        client, token, "POST", "/me/password", password=ARTHUR["password"], new_password="excalibur"
    )
    assert_problem(refused, 403, "mfa_required")
