"""The response names the scopes of the token, which may be fewer than requested (RFC 6749, 5.1)."""

from itertools import product
from typing import Any

import pytest
from fastapi import FastAPI
from httpx import AsyncClient, Response

from app.context import RequestContext
from tests.support.markers import on_sqlite
from tests.support.users import LANCELOT, assert_problem, claims_of, register

pytestmark = on_sqlite


@pytest.fixture
async def lancelot(client: AsyncClient, app: FastAPI, context: RequestContext) -> dict[str, str]:
    """A user with the scopes `train` and `predict`."""
    user_id = await register(client, LANCELOT)
    await app.state.services.users.set_scopes(context, user_id, {"train", "predict"})
    return LANCELOT


async def log_in(client: AsyncClient, kind: str, person: dict[str, str], **more: str) -> Response:
    return await client.post("/token", **{kind: {**person, **more}})  # type: ignore[arg-type] # json or data


async def test_the_response_names_the_scopes_of_the_token(
    client: AsyncClient, lancelot: dict[str, str], subtests: pytest.Subtests
) -> None:
    cases: list[tuple[dict[str, Any], str | None]] = [
        ({}, "predict train"),
        ({"scope": "train"}, "train"),
        ({"scope": "train rule"}, "train"),
        ({"scope": "rule offline_access"}, "offline_access"),
        ({"scope": "train predict", "exclude_scope": "train"}, "predict"),
        ({"exclude_scope": "train predict"}, None),
    ]
    for kind, (sent, granted) in product(("json", "data"), cases):
        with subtests.test(str(sent), kind=kind):
            issued = (await log_in(client, kind, lancelot, **sent)).json()
            assert issued.get("scope") == granted
            assert claims_of(issued["token"]).get("scope") == granted


async def test_if_nothing_is_left_no_token_is_issued(
    client: AsyncClient, lancelot: dict[str, str], subtests: pytest.Subtests
) -> None:
    cases = (
        {"scope": "rule"},
        {"scope": "admin introspect"},
        {"scope": "train", "exclude_scope": "train"},
        {"scope": 'tra"in'},
    )
    for kind, sent in product(("json", "data"), cases):
        with subtests.test(str(sent), kind=kind):
            body = assert_problem(
                await log_in(client, kind, lancelot, **sent), 400, "invalid_scope"
            )
            assert body["error_description"] == body["message"]


async def test_a_wrong_password_does_not_reveal_the_scopes(
    client: AsyncClient, lancelot: dict[str, str]
) -> None:
    wrong = {**lancelot, "password": "a guess"}
    assert_problem(await log_in(client, "json", wrong, scope="rule"), 401, "invalid_grant")
