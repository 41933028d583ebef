"""Users change their password and address and leave, after proving who they are once more."""

from typing import Any

import pytest
from httpx import AsyncClient, Response

from app.main import create_app
from app.security.rate_limits.limits import ACCOUNT_AT_ADDRESS
from app.users.models import User
from app.users.reauthentication import Reauthentication
from tests.support.apps import client_of
from tests.support.settings import Clock, make_settings
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
    token_holds,
)

PASSWORD = LANCELOT["password"]
NEW = "guinevere in the garden"
each_call = pytest.mark.parametrize(
    ("method", "path", "members"),
    [
        ("POST", "/me/password", {"new_password": NEW}),
        ("PATCH", "/me", {"email": "lake@avalon.example"}),
        ("DELETE", "/me", {}),
    ],
)


async def call(client: AsyncClient, token: str, method: str, path: str, **body: Any) -> Response:
    return await client.request(method, path, json=body, headers=bearer(token))


async def test_a_new_password_ends_all_tokens_and_is_the_only_one_that_logs_in(
    client: AsyncClient,
) -> None:
    await register(client, LANCELOT)
    session = await open_session(client, LANCELOT)
    token = await log_in(client, LANCELOT)
    change = {"password": PASSWORD, "new_password": NEW}
    answer = await call(client, token, "POST", "/me/password", **change)
    assert answer.status_code == 200
    assert not await token_holds(client, token)
    assert not await token_holds(client, session["token"])
    assert (await renew(client, session["refresh_token"])).status_code == 400
    assert (await client.post("/token", json=LANCELOT)).status_code == 401
    assert await log_in(client, {**LANCELOT, "password": NEW})


async def test_a_new_address(client: AsyncClient) -> None:
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


async def test_leaving(client: AsyncClient, arthurs_token: str) -> None:
    await register(client, LANCELOT)
    token = await log_in(client, LANCELOT)
    assert (await call(client, token, "DELETE", "/me", password=PASSWORD)).status_code == 200
    assert not await token_holds(client, token)
    assert (await client.post("/token", json=LANCELOT)).status_code == 401
    last = await call(client, arthurs_token, "DELETE", "/me", password=ARTHUR["password"])
    assert_problem(last, 409, "last_admin")


@each_call
async def test_a_token_alone_is_not_enough_and_guessing_is_slowed_down(
    client: AsyncClient, method: str, path: str, members: dict[str, Any]
) -> None:
    await register(client, LANCELOT)
    token = await log_in(client, LANCELOT)
    assert_problem(await client.request(method, path, json=members), 401, "missing_token")
    assert_problem(await call(client, token, method, path, **members), 422, "invalid_request")
    for _ in range(ACCOUNT_AT_ADDRESS.allowed):
        refused = await call(client, token, method, path, password="wrong", **members)
        assert_problem(refused, 403, "wrong_password")
    refused = await call(client, token, method, path, password=PASSWORD, **members)
    assert_problem(refused, 429, "too_many_attempts")
    assert await token_holds(client, token)
    audit = (await client.get("/me/audit", headers=bearer(token))).json()["entries"]
    assert [entry["succeeded"] for entry in audit[:10]] == [False] * 10


@each_call
async def test_a_disabled_administrator_does_nothing_with_a_request_in_progress(  # noqa: PLR0917 - fixtures
    client: AsyncClient,
    arthurs_token: str,
    monkeypatch: pytest.MonkeyPatch,
    method: str,
    path: str,
    members: dict[str, Any],
) -> None:
    """A new password is still being hashed, say, when an administrator forces a reset."""
    lancelot = await register(client, LANCELOT)
    token = await log_in(client, LANCELOT)
    codes: list[str] = []
    require = Reauthentication.require

    async def require_and_be_late(proof: Reauthentication, *arguments: Any) -> User:
        proven = await require(proof, *arguments)
        path = f"/users/{lancelot}/password-reset"
        codes.append((await client.post(path, headers=bearer(arthurs_token))).json()["code"])
        return proven

    monkeypatch.setattr(Reauthentication, "require", require_and_be_late)
    late = await call(client, token, method, path, password=PASSWORD, **members)
    assert_problem(late, 401, "invalid_token")
    record = await client.get(f"/users/{lancelot}", headers=bearer(arthurs_token))
    assert record.json()["email"] == LANCELOT["email"]
    reset = {"code": codes[0], "new_password": "the lady of shalott"}
    assert (await client.post("/password-resets/confirm", json=reset)).status_code == 200


async def test_a_weak_new_password_is_named_as_such(database_url: str, clock: Clock) -> None:
    app = create_app(make_settings(database_url, password_policy="strict"), clock, clock)
    async with app.router.lifespan_context(app), client_of(app) as client:
        await register(client, LANCELOT)
        token = await log_in(client, LANCELOT)
        change = {"password": PASSWORD, "new_password": "short"}
        refused = await call(client, token, "POST", "/me/password", **change)
        (field,) = assert_problem(refused, 422, "invalid_request")["fields"]
        assert field["field"] == "new_password"


async def test_closed_registration_tells_nothing_of_names(
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
