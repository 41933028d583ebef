"""Users change their password and address, and delete their account. Each needs the password."""

from dataclasses import replace
from typing import Any

import pytest
from httpx import AsyncClient, Response

from app.main import create_app
from app.security.rate_limits import service as rate_limits
from app.security.rate_limits.limits import ACCOUNT_AT_ADDRESS
from app.users.models import User
from app.users.reauthentication import Reauthentication
from tests.support.apps import client_of
from tests.support.markers import on_sqlite
from tests.support.settings import Clock, make_settings
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
    token_is_valid,
)

PASSWORD = LANCELOT["password"]
NEW = "guinevere in the garden"
CALLS: dict[str, tuple[str, str, dict[str, str]]] = {
    "a new password": ("POST", "/me/password", {"new_password": NEW}),
    "a new address": ("PATCH", "/me", {"email": "lake@avalon.example"}),
    "removal": ("DELETE", "/me", {}),
}


async def call(client: AsyncClient, token: str, method: str, path: str, **body: Any) -> Response:
    return await client.request(method, path, json=body, headers=bearer(token))


async def test_a_new_password_replaces_the_old_one_and_revokes_all_tokens(
    client: AsyncClient,
) -> None:
    await register(client, LANCELOT)
    session = await open_session(client, LANCELOT)
    token = await log_in(client, LANCELOT)
    change = {"password": PASSWORD, "new_password": NEW}
    answer = await call(client, token, "POST", "/me/password", **change)
    assert answer.status_code == 200
    assert not await token_is_valid(client, token)
    assert not await token_is_valid(client, session["token"])
    assert (await refresh(client, session["refresh_token"])).status_code == 400
    assert (await client.post("/token", json=LANCELOT)).status_code == 401
    assert await log_in(client, {**LANCELOT, "password": NEW})


@on_sqlite
async def test_users_change_and_remove_their_address(client: AsyncClient) -> None:
    await register(client, LANCELOT)
    token = await log_in(client, LANCELOT)
    for sent, stored in (
        ({"email": "lake@avalon.example"}, "lake@avalon.example"),
        ({"email": None}, "lake@avalon.example"),
        ({}, "lake@avalon.example"),
        ({"email": ""}, None),
    ):
        changed = await call(client, token, "PATCH", "/me", password=PASSWORD, **sent)
        assert changed.status_code == 200, changed.text
        assert changed.json()["email"] == stored
    assert (await client.get("/me", headers=bearer(token))).json()["email"] is None
    refused = await call(client, token, "PATCH", "/me", password=PASSWORD, email="a\r\nBcc: b@c.d")
    assert_problem(refused, 422, "invalid_request")


async def test_users_delete_their_account(client: AsyncClient, arthurs_token: str) -> None:
    await register(client, LANCELOT)
    token = await log_in(client, LANCELOT)
    assert (await call(client, token, "DELETE", "/me", password=PASSWORD)).status_code == 200
    assert not await token_is_valid(client, token)
    assert (await client.post("/token", json=LANCELOT)).status_code == 401
    last = await call(client, arthurs_token, "DELETE", "/me", password=ARTHUR["password"])
    assert_problem(last, 409, "last_admin")


@on_sqlite
async def test_a_token_alone_is_not_enough_and_guesses_are_limited(
    client: AsyncClient, monkeypatch: pytest.MonkeyPatch, subtests: pytest.Subtests
) -> None:
    limit = replace(ACCOUNT_AT_ADDRESS, allowed=len(CALLS))
    monkeypatch.setattr(rate_limits, "ACCOUNT_AT_ADDRESS", limit)
    await register(client, LANCELOT)
    token = await log_in(client, LANCELOT)
    for name, (method, path, members) in CALLS.items():
        with subtests.test(name):
            assert_problem(await client.request(method, path, json=members), 401, "missing_token")
            refused = await call(client, token, method, path, **members)
            assert_problem(refused, 422, "invalid_request")
            refused = await call(client, token, method, path, password="wrong", **members)
            assert_problem(refused, 403, "wrong_password")
    for name, (method, path, members) in CALLS.items():
        with subtests.test(f"{name}, after as many wrong passwords as are allowed"):
            refused = await call(client, token, method, path, password=PASSWORD, **members)
            assert_problem(refused, 429, "too_many_attempts")
    assert await token_is_valid(client, token)
    audit = (await client.get("/me/audit", headers=bearer(token))).json()["entries"]
    failed = len(CALLS)
    assert [entry["succeeded"] for entry in audit[:failed]] == [False] * failed


async def test_a_forced_reset_stops_a_request_in_progress(
    client: AsyncClient,
    arthurs_token: str,
    monkeypatch: pytest.MonkeyPatch,
    subtests: pytest.Subtests,
) -> None:
    """For example while a new password is being hashed."""
    require = Reauthentication.require
    for name, (method, path, members) in CALLS.items():
        with subtests.test(name):
            person = {**LANCELOT, "username": name}
            user_id = await register(client, person)
            token = await log_in(client, person)
            codes: list[str] = []

            async def require_and_force(
                proof: Reauthentication,
                *arguments: Any,
                forcing: str = f"/users/{user_id}/password-reset",
                codes: list[str] = codes,
            ) -> User:
                proven = await require(proof, *arguments)
                forced = await client.post(forcing, headers=bearer(arthurs_token))
                codes.append(forced.json()["code"])
                return proven

            monkeypatch.setattr(Reauthentication, "require", require_and_force)
            late = await call(client, token, method, path, password=PASSWORD, **members)
            assert_problem(late, 401, "invalid_token")
            record = await client.get(f"/users/{user_id}", headers=bearer(arthurs_token))
            assert record.json()["email"] == LANCELOT["email"]
            reset = {"code": codes[0], "new_password": "the lady of shalott"}
            assert (await client.post("/password-resets/confirm", json=reset)).status_code == 200


@on_sqlite
async def test_a_weak_new_password_is_rejected(database_url: str, clock: Clock) -> None:
    app = create_app(make_settings(database_url, password_policy="strict"), clock, clock)
    async with app.router.lifespan_context(app), client_of(app) as client:
        await register(client, LANCELOT)
        token = await log_in(client, LANCELOT)
        change = {"password": PASSWORD, "new_password": "short"}
        refused = await call(client, token, "POST", "/me/password", **change)
        (field,) = assert_problem(refused, 422, "invalid_request")["fields"]
        assert field["field"] == "new_password"


@on_sqlite
async def test_closed_registration_reveals_no_names(
    client: AsyncClient, database_url: str, clock: Clock
) -> None:
    await register(client, LANCELOT)
    closed = create_app(make_settings(database_url, registration="closed"), clock, clock)
    async with closed.router.lifespan_context(closed), client_of(closed) as visitor:
        answers = [await visitor.post("/register-user", json=who) for who in (LANCELOT, GALAHAD)]
        for answer in answers:
            assert_problem(answer, 403, "registration_closed")
        assert answers[0].content == answers[1].content
        created = await visitor.post(
            "/users", json=GALAHAD, headers=bearer(await log_in(client, ARTHUR))
        )
        assert created.status_code == 201
