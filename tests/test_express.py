"""Logins as JSON are answered past the framework, and exactly as the route answers them."""

import json
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from httpx import AsyncClient
from starlette.types import Receive, Scope, Send

from app.http.middleware import MAX_BODY_BYTES, Exchange
from tests.authenticator import enrol
from tests.conftest import client_of
from tests.people import ARTHUR, GALAHAD, LANCELOT, bearer, log_in, register
from tests.settings import Clock

JSON = {"Content-Type": "application/json"}


@pytest.fixture
def route(app: FastAPI) -> AsyncClient:
    """To the same service, without the short way."""
    stack = app.build_middleware_stack()

    async def by_the_route(scope: Scope, receive: Receive, send: Send) -> None:
        scope["app"] = app
        await stack(scope, receive, send)

    transport = httpx.ASGITransport(Exchange(by_the_route, lambda _: None))
    return AsyncClient(transport=transport, base_url="http://hourpass.example")


def what_counts(response: httpx.Response) -> tuple[int, Any, dict[str, str]]:
    body = response.json()
    for secret in ("token", "access_token", "refresh_token"):  # no two are alike
        if secret in body:
            body[secret] = type(body[secret])
    headers = dict(response.headers)
    del headers["x-request-id"]
    return response.status_code, body, headers


LOGINS = {
    "right": json.dumps(ARTHUR),
    "with a session": json.dumps({**ARTHUR, "scope": "offline_access"}),
    "with fewer scopes": json.dumps({**ARTHUR, "scope": "predict"}),
    "wrong password": json.dumps({**ARTHUR, "password": "excalibur"}),
    "unknown": json.dumps({"username": "mordred", "password": "excalibur"}),
    "disabled": json.dumps(LANCELOT),
    "without its code": json.dumps(GALAHAD),
    "with a wrong code": json.dumps({**GALAHAD, "otp": "000000"}),
    "spent refresh token": json.dumps({"grant_type": "refresh_token", "refresh_token": "x"}),
    "another grant": json.dumps({"grant_type": "implicit"}),
    "members missing": json.dumps({"username": "arthur"}),
    "members of another kind": json.dumps({"username": 1, "password": None}),
    "half a surrogate pair": '{"username": "arthur", "password": "\\ud800"}',
    "no object": "[]",
    "no JSON": '{"username": ',
    "nothing": "",
    "too large": json.dumps({**ARTHUR, "scope": "x" * MAX_BODY_BYTES}),
}


async def test_both_ways_answer_alike(
    client: AsyncClient, route: AsyncClient, clock: Clock, subtests: pytest.Subtests
) -> None:
    arthurs = bearer(await log_in(client, ARTHUR))
    lancelot = await register(client, LANCELOT)
    await client.put(f"/toggle-user-permission/{lancelot}/0", headers=arthurs)
    await register(client, GALAHAD)
    await enrol(client, GALAHAD, clock)
    for case, body in LOGINS.items():
        with subtests.test(case):
            short = await client.post("/token", content=body, headers=JSON)
            long = await route.post("/token", content=body, headers=JSON)
            assert what_counts(short) == what_counts(long)


async def test_all_else_is_the_routes(app: FastAPI) -> None:
    """A form, another kind of body, another method: each is answered, and none as JSON is."""
    async with client_of(app) as client:
        assert (await client.post("/token", data=ARTHUR)).status_code == 200
        refused = await client.post("/token", data={**ARTHUR, "password": "excalibur"})
        assert refused.status_code == 400
        assert (await client.post("/token", content="arthur")).status_code == 415
        assert (await client.get("/token")).status_code == 405
