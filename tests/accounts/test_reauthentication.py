"""With a second factor, the password and a token are not enough to take an account over."""

from typing import Any

import pytest
from httpx import AsyncClient, Response

from app.credentials.second_factors.code_checks import BURST
from app.security.rate_limits.limits import ACCOUNT_AT_ADDRESS
from tests.support.authenticator import Authenticator, enroll, log_in_with, token_with
from tests.support.settings import Clock
from tests.support.users import (
    ARTHUR,
    LANCELOT,
    assert_problem,
    bearer,
    log_in,
    register,
    token_holds,
)

PASSWORD = LANCELOT["password"]
each_call = pytest.mark.parametrize(
    ("method", "path", "members"),
    [
        ("POST", "/me/password", {"new_password": "guinevere in the garden"}),
        ("PATCH", "/me", {"email": "lake@avalon.example"}),
        ("DELETE", "/me", {}),
    ],
    ids=["a new password", "a new address", "removal"],
)


async def with_second_factor(client: AsyncClient, clock: Clock) -> tuple[Authenticator, str]:
    await register(client, LANCELOT)
    authenticator = await enroll(client, LANCELOT, clock)
    return authenticator, await token_with(client, LANCELOT, authenticator.code())


async def call(client: AsyncClient, token: str, method: str, path: str, **body: Any) -> Response:
    return await client.request(method, path, json=body, headers=bearer(token))


async def assert_unchanged(client: AsyncClient, token: str) -> None:
    profile = await client.get("/me", headers=bearer(token))
    assert profile.json()["email"] == LANCELOT["email"]
    # The old password is still the one that a code is asked for after.
    assert_problem(await client.post("/token", json=LANCELOT), 401, "mfa_required")


@each_call
async def test_without_a_code_nothing_changes(
    client: AsyncClient, clock: Clock, method: str, path: str, members: dict[str, Any]
) -> None:
    _, token = await with_second_factor(client, clock)
    for otp in ({}, {"otp": None}):
        refused = await call(client, token, method, path, password=PASSWORD, **members, **otp)
        assert_problem(refused, 403, "mfa_required")
    await assert_unchanged(client, token)
    audit = (await client.get("/me/audit", headers=bearer(token))).json()["entries"]
    assert [entry["action"] for entry in audit[:2]] == ["second_factor.required"] * 2


@each_call
async def test_the_code_is_checked_only_after_the_correct_password(
    client: AsyncClient, clock: Clock, method: str, path: str, members: dict[str, Any]
) -> None:
    authenticator, token = await with_second_factor(client, clock)
    code = authenticator.next_code()
    for sent in ({}, {"otp": authenticator.wrong_code()}, {"otp": code}):
        refused = await call(client, token, method, path, password="wrong", **members, **sent)
        assert_problem(refused, 403, "wrong_password")
    # Nor was the right code used up.
    assert (await log_in_with(client, LANCELOT, code)).status_code == 200


@each_call
@pytest.mark.parametrize("by_recovery_code", [False, True], ids=["a code", "a recovery code"])
async def test_the_change_with_a_code_succeeds_once(  # noqa: PLR0917 - fixtures
    client: AsyncClient,
    clock: Clock,
    method: str,
    path: str,
    members: dict[str, Any],
    by_recovery_code: bool,
) -> None:
    authenticator, token = await with_second_factor(client, clock)
    otp = authenticator.recovery_codes[0] if by_recovery_code else authenticator.next_code()
    done = await call(client, token, method, path, password=PASSWORD, otp=otp, **members)
    assert done.status_code == 200, done.text
    if method == "PATCH":
        again = await call(client, token, method, path, password=PASSWORD, otp=otp, email="")
        assert_problem(again, 403, "wrong_code")
        profile = await client.get("/me", headers=bearer(token))
        assert profile.json()["email"] == members["email"]
    else:
        assert not await token_holds(client, token)
        assert_problem(await log_in_with(client, LANCELOT, otp), 401, "invalid_grant")


@each_call
async def test_wrong_codes_count_as_at_a_login(
    client: AsyncClient, clock: Clock, method: str, path: str, members: dict[str, Any]
) -> None:
    authenticator, token = await with_second_factor(client, clock)
    wrong = authenticator.wrong_code()
    for _ in range(BURST):
        refused = await call(client, token, method, path, password=PASSWORD, otp=wrong, **members)
        assert_problem(refused, 403, "wrong_code")
    right = authenticator.next_code()
    refused = await call(client, token, method, path, password=PASSWORD, otp=right, **members)
    assert_problem(refused, 429, "too_many_codes")
    assert int(refused.headers["Retry-After"]) > 0
    assert_problem(await log_in_with(client, LANCELOT, right), 429, "too_many_codes")
    await assert_unchanged(client, token)
    audit = (await client.get("/me/audit", headers=bearer(token))).json()["entries"]
    failed = [entry for entry in audit if entry["details"].get("reason") == "wrong code"]
    assert len(failed) == BURST
    # Recovery codes are not among a million: the owner is not locked out.
    recovery = authenticator.recovery_codes[0]
    done = await call(client, token, method, path, password=PASSWORD, otp=recovery, **members)
    assert done.status_code == 200, done.text


@each_call
async def test_wrong_passwords_are_slowed_down_with_any_code(
    client: AsyncClient, clock: Clock, method: str, path: str, members: dict[str, Any]
) -> None:
    authenticator, token = await with_second_factor(client, clock)
    sent = {"otp": authenticator.next_code(), **members}
    for _ in range(ACCOUNT_AT_ADDRESS.allowed):
        refused = await call(client, token, method, path, password="wrong", **sent)
        assert_problem(refused, 403, "wrong_password")
    refused = await call(client, token, method, path, password=PASSWORD, **sent)
    assert_problem(refused, 429, "too_many_attempts")


@each_call
async def test_a_user_without_a_second_factor_needs_no_code(
    client: AsyncClient, method: str, path: str, members: dict[str, Any]
) -> None:
    await register(client, LANCELOT)
    token = await log_in(client, LANCELOT)
    done = await call(client, token, method, path, password=PASSWORD, otp="123456", **members)
    assert done.status_code == 200, done.text


async def test_an_unconfirmed_second_factor_asks_for_no_code(client: AsyncClient) -> None:
    await register(client, LANCELOT)
    token = await log_in(client, LANCELOT)
    begun = await call(client, token, "POST", "/me/second-factor", password=PASSWORD)
    assert begun.status_code == 201
    assert (await call(client, token, "PATCH", "/me", password=PASSWORD, email="")).json()


async def test_an_administrator_needs_the_second_factor_too(
    client: AsyncClient, clock: Clock
) -> None:
    authenticator = await enroll(client, ARTHUR, clock)
    token = await token_with(client, ARTHUR, authenticator.code())
    refused = await call(
        client, token, "POST", "/me/password", password=ARTHUR["password"], new_password="excalibur"
    )
    assert_problem(refused, 403, "mfa_required")
