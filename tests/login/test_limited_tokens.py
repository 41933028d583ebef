"""A token with less than all rights of the account, or of an API key, cannot change the account."""

import re
from typing import Any

import pytest
from fastapi import FastAPI
from httpx import AsyncClient

from app.context import RequestContext
from app.settings import Settings
from app.users.service import Users
from tests.support.apps import started_client
from tests.support.limited_tokens import token_of_key
from tests.support.markers import on_sqlite
from tests.support.openapi import OPERATIONS, assert_documented
from tests.support.settings import Clock
from tests.support.users import (
    ARTHUR,
    LANCELOT,
    assert_problem,
    bearer,
    claims_of,
    log_in,
    open_session,
    refresh,
    register,
    token_is_valid,
)

MODELS = "https://models.example"

# Of a user with admin, predict:fraud-* and train: whether the token is limited.
LOGINS: list[tuple[dict[str, str], bool]] = [
    ({}, False),
    ({"scope": "offline_access"}, False),
    ({"scope": "train predict:fraud-* admin"}, False),
    ({"scope": "train predict:* admin other"}, False),
    ({"exclude_scope": "predict:x other"}, False),
    ({"scope": "predict:fraud-* admin"}, True),
    ({"scope": "train predict:fraud-v3 admin"}, True),
    ({"exclude_scope": "admin"}, True),
    ({"exclude_scope": "predict:fraud-v3"}, True),
    ({"resource": MODELS}, True),
]


@on_sqlite
async def test_a_token_is_limited_if_it_lacks_a_right_that_the_login_could_have_got(
    client: AsyncClient, users: Users, context: RequestContext, subtests: pytest.Subtests
) -> None:
    await users.set_scopes(context, 1, {"admin", "predict:fraud-*", "train"})
    for asked, is_limited in LOGINS:
        with subtests.test(str(asked)):
            claims = claims_of(await log_in(client, {**ARTHUR, **asked}))
            assert claims.get("limited", False) is is_limited
            scope = f"{asked.get('scope', 'train predict:fraud-* admin')} offline_access"
            session = await open_session(client, {**ARTHUR, **asked}, scope)
            refreshed = (await refresh(client, session["refresh_token"])).json()
            for answer in (session, refreshed):  # as limited as the first
                assert claims_of(answer["token"]).get("limited", False) is is_limited


@on_sqlite
async def test_an_administrator_without_a_second_factor_can_set_one_up(
    settings: Settings, clock: Clock
) -> None:
    required = settings.model_copy(update={"admin_second_factor": "required"})
    async with started_client(required, clock) as client:
        token = await log_in(client, ARTHUR)
        claims, proof = claims_of(token), {"password": ARTHUR["password"]}
        assert (claims.get("scope"), claims.get("limited")) == (None, None)
        response = await client.post("/me/second-factor", json=proof, headers=bearer(token))
        assert response.status_code == 201


NEED_NO_OWNER = {"GET /me", "GET /verify", "POST /introspect"}
OF_THE_OWNER = {
    name: operation
    for name, operation in OPERATIONS.items()
    if re.match(r"\w+ /me\b", name) and name not in NEED_NO_OWNER
}
OF_ADMINISTRATORS = {
    name: operation
    for name, operation in OPERATIONS.items()
    if "admin" in str(operation["security"])
}


def call_of(name: str) -> tuple[str, str]:
    """Method and path of an operation, with values for the parameters."""
    method, path = name.split()
    return method, re.sub(r"{(\w+)}", lambda match: PARAMETERS.get(match[1], "2"), path)


PARAMETERS = {"permission": "0", "session_id": "0123456789abcdef", "key_id": "Ab3dEf9h"}


def test_the_tests_below_call_every_operation_with_a_token() -> None:
    with_token = {name for name, operation in OPERATIONS.items() if operation["security"]}
    assert with_token == NEED_NO_OWNER | set(OF_THE_OWNER) | set(OF_ADMINISTRATORS)
    assert len(OF_THE_OWNER) >= 14
    assert len(OF_ADMINISTRATORS) >= 19


@on_sqlite
async def test_limited_tokens_and_keys_neither_read_nor_change_the_account(
    client: AsyncClient,
    app: FastAPI,
    users: Users,
    context: RequestContext,
    subtests: pytest.Subtests,
) -> None:
    await users.set_scopes(context, 1, {"admin", "predict"})
    owner = await open_session(client, ARTHUR)
    by_exclude_scope = await log_in(client, {**ARTHUR, "exclude_scope": "predict"})
    one, *_ = OF_THE_OWNER
    for kind, token, names in (
        ("by scope", await log_in(client, {**ARTHUR, "scope": "predict"}), OF_THE_OWNER),
        ("by exclude_scope", by_exclude_scope, [one]),
        ("of a key", token_of_key(app, owner["token"], "admin predict"), [one]),
        (
            "of a key, without the claim",
            token_of_key(app, owner["token"], "admin predict", is_limited=False),
            OF_THE_OWNER,
        ),
    ):
        for name in names:
            with subtests.test(f"{kind}: {name}"):
                response = await client.request(*call_of(name), headers=bearer(token))
                problem = assert_problem(response, 403, "insufficient_scope")
                assert "all rights of the account" in problem["message"]
                assert_documented(response)
    other = await log_in(client, {**ARTHUR, "resource": MODELS})
    for name in (*OF_THE_OWNER, *NEED_NO_OWNER, *OF_ADMINISTRATORS):
        with subtests.test(f"for another API: {name}"):
            response = await client.request(*call_of(name), headers=bearer(other))
            assert_problem(response, 401, "invalid_token")
    assert await token_is_valid(client, owner["token"])
    listed = await client.get("/me/sessions", headers=bearer(owner["token"]))
    assert len(listed.json()["sessions"]) == 1


@on_sqlite
async def test_a_key_with_admin_reads_but_does_not_write(
    client: AsyncClient, app: FastAPI, subtests: pytest.Subtests
) -> None:
    await register(client, LANCELOT)
    token = token_of_key(app, await log_in(client, ARTHUR), "admin")
    for name in OF_ADMINISTRATORS:
        with subtests.test(name):
            method, path = call_of(name)
            response = await client.request(method, path, headers=bearer(token))
            if method == "GET":
                assert response.status_code in (200, 404), response.text
            else:
                assert_problem(response, 403, "insufficient_scope")
                assert_documented(response)
    lesser = await log_in(client, {**LANCELOT, "scope": ""})
    for name in OF_ADMINISTRATORS:
        response = await client.request(*call_of(name), headers=bearer(lesser))
        assert_problem(response, 403, "insufficient_scope")


@on_sqlite
async def test_a_limited_token_reads_the_address_only_with_the_scope_email(
    client: AsyncClient, app: FastAPI, users: Users, context: RequestContext
) -> None:
    user_id = await register(client, LANCELOT)
    await users.set_scopes(context, user_id, {"email", "predict"})
    await users.change(context, user_id, email_verified=True)
    owner = await log_in(client, LANCELOT)

    async def address(token: str) -> tuple[Any, Any]:
        response = await client.get("/me", headers=bearer(token))
        assert_documented(response)
        assert response.json()["username"] == "lancelot"
        return response.json()["email"], response.json()["email_verified"]

    shown, hidden = (LANCELOT["email"], True), (None, False)
    assert await address(owner) == shown
    assert await address(await log_in(client, {**LANCELOT, "scope": "predict"})) == hidden
    assert await address(await log_in(client, {**LANCELOT, "scope": "email"})) == shown
    assert await address(token_of_key(app, owner, "predict")) == hidden
    assert await address(token_of_key(app, owner, "email predict")) == shown
