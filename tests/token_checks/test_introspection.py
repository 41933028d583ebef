"""RFC 7662: authorized callers get the claims of a token. For all others it is inactive."""

from datetime import timedelta
from typing import Any

import pytest
from fastapi import FastAPI
from httpx import AsyncClient

from app.context import RequestContext
from app.settings import Settings
from app.users.service import Users
from tests.support.limited_tokens import KEY_ID, token_of_key
from tests.support.markers import on_sqlite
from tests.support.settings import Clock
from tests.support.users import (
    ARTHUR,
    GALAHAD,
    LANCELOT,
    assert_problem,
    bearer,
    claims_of,
    log_in,
    open_session,
    register,
)

INACTIVE = {"active": False}

pytestmark = on_sqlite  # test_verification.py has the query on both databases


async def introspect(client: AsyncClient, token: str, *, by: str) -> dict[str, Any]:
    response = await client.post("/introspect", data={"token": token}, headers=bearer(by))
    assert response.status_code == 200, response.text
    assert response.headers["cache-control"] == "no-store"
    answer: dict[str, Any] = response.json()
    return answer


async def test_who_gets_the_claims_of_a_token(
    client: AsyncClient,
    clock: Clock,
    settings: Settings,
    users: Users,
    context: RequestContext,
    arthurs_token: str,
    subtests: pytest.Subtests,
) -> None:
    user_id, galahad = await register(client, LANCELOT), await register(client, GALAHAD)
    token = await log_in(client, LANCELOT)
    with subtests.test("its user, all of them"):
        now = int(clock().timestamp())
        assert await introspect(client, token, by=token) == {
            "active": True,
            "client_id": "hourpass",
            "username": "lancelot",
            "token_type": "bearer",
            "iat": now,
            "exp": now + 3600,
            "auth_time": now,
            "sub": str(user_id),
            "aud": "ml-api",
            "iss": settings.issuer,
            "jti": claims_of(token)["jti"],
            "kind": "person",
        }
    with subtests.test("administrators and services"):
        assert await introspect(client, token, by=arthurs_token) == await introspect(
            client, token, by=token
        )
        await users.set_scopes(context, galahad, {"introspect"})
        answer = await introspect(client, token, by=await log_in(client, GALAHAD))
        assert (answer["active"], answer["sub"]) == (True, str(user_id))
    with subtests.test("no other user"):
        await users.set_scopes(context, galahad, {"predict"})
        galahads = await log_in(client, GALAHAD)
        for others in (token, arthurs_token):
            assert await introspect(client, others, by=galahads) == INACTIVE
        # A token of an administrator without the scope `admin`.
        narrowed = (await open_session(client, ARTHUR, "offline_access predict"))["access_token"]
        assert await introspect(client, token, by=narrowed) == INACTIVE
    with subtests.test("also those of a token for another API, which does not introspect"):
        other = await log_in(client, {**LANCELOT, "resource": "https://models.example/"})
        answer = await introspect(client, other, by=token)
        assert (answer["active"], answer["aud"]) == (True, "https://models.example/")
        refused = await client.post("/introspect", data={"token": token}, headers=bearer(other))
        assert_problem(refused, 401, "invalid_token")
        assert (await client.post("/revoke", data={"token": other})).json()["revoked"]
        assert await introspect(client, other, by=token) == INACTIVE
    with subtests.test("scope and session if there are any"):
        session = await open_session(client, ARTHUR)
        clock.advance(timedelta(minutes=5))
        renewal = {"grant_type": "refresh_token", "refresh_token": session["refresh_token"]}
        renewed = (await client.post("/token", json=renewal)).json()["access_token"]
        answer = await introspect(client, renewed, by=session["access_token"])
        assert answer["scope"] == "admin offline_access"
        assert answer["sid"] == claims_of(renewed)["sid"]
        assert answer["iat"] - answer["auth_time"] == 300


async def test_a_key_introspects_only_with_the_scope(
    client: AsyncClient, app: FastAPI, users: Users, context: RequestContext
) -> None:
    await users.set_scopes(context, await register(client, LANCELOT), {"introspect", "predict"})
    token = await log_in(client, LANCELOT)
    with_scope = token_of_key(app, token, "introspect")
    answer = await introspect(client, with_scope, by=with_scope)
    assert (answer["client_id"], answer["key_id"], answer["kind"]) == (KEY_ID, KEY_ID, "person")
    assert (await introspect(client, token, by=with_scope))["active"]
    without_scope = token_of_key(app, token, "predict")
    for subject in (token, without_scope):
        assert await introspect(client, subject, by=without_scope) == INACTIVE


async def test_introspection_of_an_invalid_token_reveals_nothing_more(
    client: AsyncClient, clock: Clock
) -> None:
    await register(client, LANCELOT)
    expired = await log_in(client, LANCELOT)
    clock.advance(timedelta(minutes=60))
    arthurs_token = await log_in(client, ARTHUR)
    revoked = await log_in(client, LANCELOT)
    await client.post("/revoke", data={"token": revoked})
    session = await open_session(client, LANCELOT)
    await client.post("/me/logout-everywhere", headers=bearer(session["access_token"]))
    live = await open_session(client, LANCELOT)
    for token in (
        expired,
        revoked,
        session["access_token"],
        live["refresh_token"],
        live["access_token"] + "A",
        "garbage",
        "é\0",
        "a" * 10_000,
    ):
        assert await introspect(client, token, by=arthurs_token) == INACTIVE


async def test_introspection_takes_the_token_in_a_form(
    client: AsyncClient, arthurs_token: str
) -> None:
    headers = bearer(arthurs_token)
    asked = {"token": arthurs_token}
    response = await client.post("/introspect", data=asked)
    assert_problem(response, 401, "missing_token")
    response = await client.post("/introspect", data=asked, headers=bearer("garbage"))
    assert_problem(response, 401, "invalid_token")
    response = await client.post("/introspect", json=asked, headers=headers)
    assert_problem(response, 415, "unsupported_media_type")
    response = await client.post("/introspect", data={"tokens": "garbage"}, headers=headers)
    assert_problem(response, 400, "invalid_request")
