"""A login gets the scopes that both the request and the user's scopes cover."""

from typing import Any

import pytest
from httpx import AsyncClient

from app.context import RequestContext
from app.users.service import Users
from hourpass.scopes import without
from tests.support.markers import on_sqlite
from tests.support.users import LANCELOT, assert_problem, claims_of, log_in, register

# The last one is older than the grammar.
SCOPES = {"predict:fraud-*", "predict:churn", "train", "old*scope"}
ASKED: list[tuple[dict[str, str], str | None]] = [
    ({"scope": "predict:fraud-v3"}, "predict:fraud-v3"),
    ({"scope": "predict:*"}, "predict:churn predict:fraud-*"),
    ({"scope": "predict:fraud-v*"}, "predict:fraud-v*"),
    ({"scope": "predict:fraud"}, None),
    ({"scope": "predict"}, None),
    ({"scope": "* predict:** train:x"}, None),
    ({"scope": "predict:fraud-a/../b train"}, "train"),
    ({"scope": "old*scope"}, "old*scope"),
    ({"scope": "old*scopes"}, None),
    ({"scope": "predict:fraud-v3 predict:fraud-*"}, "predict:fraud-* predict:fraud-v3"),
    # Excluding part of a pattern takes all of it.
    ({"exclude_scope": "predict:fraud-v3"}, "old*scope predict:churn train"),
    ({"exclude_scope": "predict:*"}, "old*scope train"),
    ({"exclude_scope": "predict:churn-v2 tr* * train:x"}, " ".join(sorted(SCOPES))),
    ({"exclude_scope": "old*scope"}, "predict:churn predict:fraud-* train"),
    ({"scope": "predict:fraud-v3", "exclude_scope": "predict:fraud-v4"}, "predict:fraud-v3"),
    ({"scope": "predict:*", "exclude_scope": "predict:fraud-v4"}, "predict:churn"),
    ({"scope": "predict:fraud-v3", "exclude_scope": "predict:fraud-*"}, None),
]


@on_sqlite
async def test_a_login_gets_the_requested_scopes_that_are_covered(
    client: AsyncClient, users: Users, context: RequestContext, subtests: pytest.Subtests
) -> None:
    await users.set_scopes(context, await register(client, LANCELOT), SCOPES)
    for asked, given in ASKED:
        with subtests.test(str(asked)):
            response = await client.post("/token", json={**LANCELOT, **asked})
            if given is None:
                assert_problem(response, 400, "invalid_scope")
            else:
                assert response.json()["scope"] == claims_of(response.json()["token"])["scope"]
                assert response.json()["scope"] == given


@on_sqlite
async def test_a_login_takes_as_many_scopes_as_a_user_can_have(client: AsyncClient) -> None:
    await register(client, LANCELOT)
    person: dict[str, Any] = {**LANCELOT, "scope": f"{'p ' * 1_999}pp"}
    assert len(person["scope"]) == 4_000
    assert_problem(await client.post("/token", json=person), 400, "invalid_scope")
    person["scope"] += "p"
    assert_problem(await client.post("/token", json=person), 422, "invalid_request")
    assert await log_in(client, LANCELOT)


def test_excluding_scopes_adds_none() -> None:
    scopes = frozenset({"a:*", "a:b", "b:c-*", "c"})
    for excluded in ({"a:b"}, {"a:*"}, {"b:c-d"}, {"b:*"}, {"c"}, {"c:*"}, {"*"}, set[str]()):
        left = without(scopes, frozenset(excluded))
        assert left <= scopes
    assert without(scopes, frozenset({"a:x"})) == {"a:b", "b:c-*", "c"}


@on_sqlite
async def test_a_login_never_gets_a_token_that_is_too_long_to_be_accepted(
    client: AsyncClient, users: Users, context: RequestContext
) -> None:
    user_id = await register(client, LANCELOT)
    await users.set_scopes(context, user_id, {"predict:*"})
    names = [f"predict:{letter * 100}" for letter in "abcdefghijklmnopqrstuvwxyz"]
    asked = {"scope": " ".join([*names, "offline_access"])}
    assert_problem(await client.post("/token", json={**LANCELOT, **asked}), 400, "invalid_scope")
    token = await log_in(client, LANCELOT)
    headers = {"Authorization": f"Bearer {token}"}
    assert (await client.get("/me/sessions", headers=headers)).json() == {"sessions": []}
    answer = await client.post("/token", json={**LANCELOT, "scope": " ".join(names[:8])})
    assert claims_of(answer.json()["token"])["scope"] == " ".join(names[:8])
