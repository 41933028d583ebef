"""Pages of the origins in CORS_ORIGINS may read all responses. Pages of other origins may read only
the keys and the metadata. test_browser_front_end.py uses a browser.

On SQLite only, because the headers do not depend on the database.
"""

import pytest
from fastapi import FastAPI
from httpx import AsyncClient
from starlette.requests import Request

from app.settings import Settings
from tests.support.apps import client_of
from tests.support.markers import on_sqlite
from tests.support.settings import ARTHUR_ADMINISTERS, make_settings
from tests.support.users import ARTHUR, bearer, log_in

pytestmark = on_sqlite

APP = "https://app.camelot.example"
DEVELOPER = "http://localhost:3000"
PREFLIGHT = {"Access-Control-Request-Method": "PATCH"}
ALLOW = "access-control-allow-origin"
# A different part of the code answers each of these.
PATHS = ("/healthz", "/verify", "/me", "/unknown", "/token_status/x", f"/{'x' * 8200}")
PUBLIC = ("/.well-known/jwks.json", "/.well-known/oauth-authorization-server", "/.well-known/x")


@pytest.fixture
def settings(database_url: str) -> Settings:
    return make_settings(database_url, **ARTHUR_ADMINISTERS, cors_origins=f"{APP}, {DEVELOPER}")


async def test_an_allowed_origin_may_read_every_response(client: AsyncClient) -> None:
    token = await log_in(client, ARTHUR)
    for origin in (APP, DEVELOPER):
        answers = [
            await client.request(method, path, headers={"Origin": origin, **more})
            for path in PATHS
            for method in ("GET", "HEAD", "POST")
            for more in ({}, bearer(token))
        ]
        assert {answer.status_code for answer in answers} == {200, 401, 404, 405, 414}
        for answer in answers:
            assert answer.headers.get_list(ALLOW) == [origin]
            assert answer.headers["vary"] == "Origin"
            assert "X-Request-Id" in answer.headers["access-control-expose-headers"]
            assert "Retry-After" in answer.headers["access-control-expose-headers"]
            assert "access-control-allow-credentials" not in answer.headers


OTHERS = [
    "https://evil.example",
    "https://app.camelot.example.evil.example",
    "https://evil.example/https://app.camelot.example",
    "http://app.camelot.example",
    "https://app.camelot.example:8443",
    "https://app.camelot.example/",
    "https://APP.camelot.example",
    "null",
    "*",
    "",
]


async def test_another_origin_may_read_none(client: AsyncClient, subtests: pytest.Subtests) -> None:
    token = await log_in(client, ARTHUR)
    for origin in OTHERS:
        with subtests.test(origin):
            for path in PATHS if origin == OTHERS[0] else PATHS[:2]:
                for headers in ({}, bearer(token)):
                    answer = await client.get(path, headers={"Origin": origin, **headers})
                    assert ALLOW not in answer.headers
                    assert answer.headers["vary"] == "Origin"
            asked = await client.options("/me", headers={"Origin": origin, **PREFLIGHT})
            assert asked.status_code == 405
            assert not [name for name in asked.headers if name.startswith("access-control")]


async def test_two_origins_in_one_request_count_as_none(app: FastAPI) -> None:
    async with client_of(app) as client:
        for origins in ([("Origin", APP), ("Origin", APP)], [("Origin", f"{APP}, {DEVELOPER}")]):
            assert ALLOW not in (await client.get("/healthz", headers=origins)).headers


async def test_preflights_get_the_same_answer_for_all_paths_and_are_cached(
    client: AsyncClient,
) -> None:
    answers = [
        await client.options(path, headers={"Origin": APP, **PREFLIGHT, **more})
        for path in ("/me", "/unknown", "/users/7", "/token_status/x")
        for more in ({}, {"Access-Control-Request-Headers": "authorization,content-type"})
    ]
    for answer in answers:
        del answer.headers["x-request-id"]
        assert answer.status_code == 204
        assert answer.content == b""
        assert answer.headers == answers[0].headers
    headers = answers[0].headers
    assert headers[ALLOW] == APP
    assert headers["vary"] == "Origin"
    assert headers["access-control-max-age"] == "7200"
    assert headers["access-control-allow-methods"] == "GET, HEAD, POST, PUT, PATCH, DELETE"
    assert headers["access-control-allow-headers"] == "Authorization, Content-Type, X-Request-Id"


async def test_a_preflight_that_a_proxy_sends_to_verify_needs_a_token(client: AsyncClient) -> None:
    """Otherwise the proxy would pass it on."""
    token = await log_in(client, ARTHUR)
    for path in ("/verify", "/verify/models/x"):
        for headers, status in ((bearer("x"), 401), ({}, 401), (bearer(token), 200)):
            preflight = {"Origin": APP, **PREFLIGHT, **headers}
            assert (await client.options(path, headers=preflight)).status_code == status


async def test_options_without_a_requested_method_is_no_preflight(client: AsyncClient) -> None:
    assert (await client.options("/me", headers={"Origin": APP})).status_code == 405


async def test_a_preflight_has_the_same_limits_as_other_requests(client: AsyncClient) -> None:
    answer = await client.options(f"/{'x' * 8200}", headers={"Origin": APP, **PREFLIGHT})
    assert answer.status_code == 414


async def test_an_allowed_origin_may_read_an_unexpected_error_too(app: FastAPI) -> None:
    @app.get("/broken")
    async def broken(_: Request) -> None:
        raise ZeroDivisionError

    async with client_of(app) as client:
        answer = await client.get("/broken", headers={"Origin": APP})
    assert (answer.status_code, answer.headers[ALLOW]) == (500, APP)


class TestWithoutTheSetting:
    @pytest.fixture
    def settings(self, database_url: str) -> Settings:
        return make_settings(database_url, **ARTHUR_ADMINISTERS)

    async def test_no_origin_may_read_anything(self, client: AsyncClient) -> None:
        for path in PATHS:
            answer = await client.get(path, headers={"Origin": APP})
            assert not {ALLOW, "vary"} & set(answer.headers)
        asked = await client.options("/me", headers={"Origin": APP, **PREFLIGHT})
        assert (asked.status_code, ALLOW in asked.headers) == (405, False)

    async def test_keys_and_metadata_are_for_all(self, client: AsyncClient) -> None:
        for path in PUBLIC:
            answer = await client.get(path, headers={"Origin": "null"})
            assert (answer.headers[ALLOW], "vary" in answer.headers) == ("*", False)
            asked = await client.options(path, headers={"Origin": "null", **PREFLIGHT})
            assert (asked.status_code, asked.headers[ALLOW]) == (204, "*")
            assert asked.headers["access-control-allow-methods"] == "GET, HEAD"
