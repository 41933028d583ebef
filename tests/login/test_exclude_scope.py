"""A login can exclude scopes, as HourpassAuth excludes `admin`: an API that gets the token of an
administrator cannot administer with it."""

from itertools import product
from typing import Any

import pytest
from httpx import AsyncClient

from app.context import RequestContext
from app.users.service import Users
from hourpass import LoginError
from tests.support.http_clients import ClientService, by_httpx, token_of
from tests.support.markers import on_sqlite
from tests.support.users import (
    ARTHUR,
    LANCELOT,
    Person,
    assert_problem,
    bearer,
    claims_of,
    log_in,
    refresh,
    register,
)

pytest_plugins = ["tests.support.client_fixtures"]


LEFT_OUT: list[tuple[Person, str | None]] = [
    ({}, "admin predict train"),
    ({"exclude_scope": ""}, "admin predict train"),
    ({"exclude_scope": "admin"}, "predict train"),
    ({"exclude_scope": "admin  train nothing"}, "predict"),
    ({"exclude_scope": "admin", "scope": "predict"}, "predict"),
    ({"exclude_scope": "admin", "scope": "offline_access"}, "offline_access predict train"),
    ({"exclude_scope": "admin predict train"}, None),
]


@on_sqlite
async def test_a_token_lacks_the_scopes_that_were_left_out(
    client: AsyncClient, users: Users, context: RequestContext, subtests: pytest.Subtests
) -> None:
    await users.set_scopes(context, 1, {"admin", "predict", "train"})
    for kind, (asked, given) in product(("json", "data"), LEFT_OUT):
        with subtests.test(str(asked), kind=kind):
            sent: dict[str, Any] = {kind: {**ARTHUR, **asked}}
            answer = (await client.post("/token", **sent)).json()
            assert answer.get("scope") == claims_of(answer["token"]).get("scope") == given
            if "refresh_token" in answer:
                assert (await refresh(client, answer["refresh_token"])).json()["scope"] == given


@on_sqlite
async def test_such_a_token_does_not_administer(client: AsyncClient) -> None:
    user_id = await register(client, LANCELOT)
    token = await log_in(client, {**ARTHUR, "exclude_scope": "admin"})
    refused = await client.get(f"/users/{user_id}", headers=bearer(token))
    assert_problem(refused, 403, "insufficient_scope")
    assert (await client.get("/me", headers=bearer(token))).status_code == 200


@pytest.mark.parametrize(
    ("scopes", "given"),
    [
        pytest.param((), {"predict", "train"}, id="no scope named"),
        pytest.param("offline_access", {"offline_access", "predict", "train"}, id="a session"),
        pytest.param(["predict"], {"predict"}, id="one"),
        pytest.param(["admin"], {"admin"}, id="admin"),
        pytest.param("admin predict offline_access", {"admin", "predict", "offline_access"}),
        pytest.param(["administrate", "train"], {"train"}, id="a longer word"),
    ],
)
def test_hourpass_auth_requests_the_scope_admin_only_if_it_is_named(
    service: ClientService, scopes: Any, given: set[str]
) -> None:
    change = {"is_admin": True, "scopes": ["predict", "train"]}
    headers = bearer(service.client.post("/token", json=ARTHUR).json()["token"])
    path = f"/users/{service.user_id}"
    assert service.client.patch(path, json=change, headers=headers).status_code == 200
    auth = service.auth(scopes=scopes)
    assert by_httpx(auth, "GET", f"{service.url}/me").status_code == 200
    assert set(claims_of(token_of(auth)).get("scope", "").split()) == given
    administers = by_httpx(auth, "GET", f"{service.url}{path}").status_code == 200
    assert administers is ("admin" in given)
    # One login, as before: the service leaves the scope out, not a second request.
    assert service.transport.grants() == ["password"]


def test_hourpass_auth_says_that_no_requested_scope_is_granted(service: ClientService) -> None:
    with pytest.raises(LoginError, match="none of the requested scopes"):
        by_httpx(service.auth(scopes=["administrate"]), "GET", f"{service.url}/me")
