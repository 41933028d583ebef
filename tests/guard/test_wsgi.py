"""WSGI apps behind the guard, on the standard library's server."""

import json
import threading
from collections.abc import Iterable, Iterator
from typing import Any
from unittest.mock import Mock
from wsgiref.simple_server import WSGIRequestHandler, make_server

import httpx
import pytest

from hourpass import Guard
from hourpass.testing import Issuer, authorization
from hourpass.wsgi import GuardMiddleware

PUBLIC = ["/health", "/static/*", "/größe"]
NAMES = ("HTTP_X_AUTH_USER_ID", "HTTP_X_AUTH_USERNAME", "HTTP_X_AUTH_SCOPES", "REMOTE_USER")

guard = Guard("https://hourpass.example")


@pytest.fixture(autouse=True)
def issuer(hourpass_issuer: Issuer) -> Issuer:
    hourpass_issuer.attach(guard)
    return hourpass_issuer


def model(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    """Answers with everything that could name a user."""
    start_response("200 OK", [("Content-Type", "application/json")])
    user = environ.get("hourpass.user")
    named = {
        key: value
        for key, value in environ.items()
        if any(word in key.upper() for word in ("AUTH_", "REMOTE", "FORWARDED"))
        and key not in ("HTTP_AUTHORIZATION", "REMOTE_ADDR", "REMOTE_HOST")
    }
    return [json.dumps({"user": user and user.username, **named}).encode()]


class QuietHandler(WSGIRequestHandler):
    def log_message(self, format: str, *_: object) -> None:  # noqa: A002 - the library's name
        pass


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    app = GuardMiddleware(model, guard, PUBLIC, username_headers=["X-Forwarded-User"])
    with make_server("127.0.0.1", 0, app, handler_class=QuietHandler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.fixture
def client(url: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=url) as client:
        yield client


def test_the_app_knows_its_user(client: httpx.Client, issuer: Issuer) -> None:
    token = issuer.token("train", "predict", user_id=7, username="grüße")
    response = client.post("/predict", headers=authorization(token), content=b"{}")
    assert response.json() == {
        "user": "grüße",
        "REMOTE_USER": "grüße",
        "AUTH_TYPE": "Bearer",
        "HTTP_X_AUTH_USER_ID": "7",
        "HTTP_X_AUTH_USERNAME": "gr%C3%BC%C3%9Fe",
        "HTTP_X_AUTH_SCOPES": "predict train",
        "HTTP_X_AUTH_KIND": "person",
        "HTTP_X_FORWARDED_USER": "gr%C3%BC%C3%9Fe",
    }


FAKED = [
    "X-Auth-User-Id",
    "x_auth_user_id",
    "X.Auth.User.Id",
    "X-Auth-Scopes",
    "X-Auth-Kind",
    "X.Auth_Key.Id",
    "X_Auth-Username",
    "Remote-User",
    "Remote_User",
    "X-Remote-User",
    "X-Forwarded-User",
    "X-Forwarded-Email",
    "X-WEBAUTH-USER",
]


@pytest.mark.parametrize("path", ["/predict", "/health"])
def test_what_the_caller_sends_as_a_user_is_removed(
    client: httpx.Client, issuer: Issuer, path: str, subtests: pytest.Subtests
) -> None:
    for name in FAKED:
        with subtests.test(name):
            headers = {**authorization(issuer.token()), name: "arthur"}
            assert "arthur" not in client.get(path, headers=headers).text


def test_only_public_paths_need_no_token_and_have_no_user(
    client: httpx.Client, subtests: pytest.Subtests
) -> None:
    for path in ("/health", "/static/", "/static/a.css", "/größe"):
        with subtests.test(path):
            response = client.get(path)
            assert (response.status_code, response.json()) == (200, {"user": None})
    for path in (
        "/",
        "/predict",
        "/health/",
        "/Health",
        "/static",
        "/static/%2e%2e/predict",
        "/static/%252e",
    ):
        with subtests.test(path):
            assert client.get(path).status_code == 401


@pytest.mark.parametrize("name", ["RAW_URI", "REQUEST_URI"])
def test_an_encoded_slash_is_not_public(name: str) -> None:
    """Servers that have the path as it was sent hand it on under one of these names."""
    environ = {"REQUEST_METHOD": "GET", "PATH_INFO": "/static/a/b", name: "/static/a%2Fb?x=1"}
    start_response = Mock()
    GuardMiddleware(model, guard, PUBLIC)(environ, start_response)
    assert start_response.call_args.args[0] == "401 Unauthorized"


@pytest.mark.parametrize("kind", ["expired_token", "revoked_token", "forged_token"])
def test_invalid_tokens_are_refused(client: httpx.Client, issuer: Issuer, kind: str) -> None:
    response = client.get("/predict", headers=authorization(getattr(issuer, kind)()))
    assert response.status_code == 401
    assert response.json() == {
        "message": "Invalid token",
        "error": "invalid_token",
        "code": "invalid_token",
    }
    assert response.headers["WWW-Authenticate"] == 'Bearer realm="hourpass", error="invalid_token"'


def test_two_authorization_headers_are_refused(client: httpx.Client, issuer: Issuer) -> None:
    value = f"Bearer {issuer.token()}"
    headers = [("Authorization", value), ("Authorization", value)]
    assert client.get("/predict", headers=headers).status_code == 401


def test_an_outage_is_503(client: httpx.Client, issuer: Issuer) -> None:
    guard.start()
    with issuer.outage():
        response = client.get("/predict", headers=authorization(issuer.token()))
    assert (response.status_code, response.headers["Retry-After"]) == (503, "2")


def test_a_refusal_of_head_has_no_body(client: httpx.Client) -> None:
    response = client.head("/predict")
    assert (response.status_code, response.content) == (401, b"")


def test_the_guards_own_refusals_are_used(issuer: Issuer) -> None:
    custom = Guard(
        "https://hourpass.example",
        on_refusal=lambda error: {"error": {"message": str(error)}},
        html_refusals=True,
    )
    issuer.attach(custom)
    transport = httpx.WSGITransport(GuardMiddleware(model, custom))
    with httpx.Client(transport=transport, base_url="http://api.example") as client:
        response = client.get("/predict")
        page = client.get("/predict", headers={"Accept": "text/html"})
    assert response.json() == {"error": {"message": "A bearer token is needed"}}
    assert page.headers["Content-Type"] == "text/html; charset=utf-8"
