"""Middleware with scopes by path: no spelling of a path avoids its pattern."""

import asyncio
import json
from typing import Any
from urllib.parse import unquote

import pytest
from fastapi import FastAPI
from openapi_spec_validator import validate

from hourpass import Guard, Requirement, from_form, from_json, from_query
from hourpass.guard.path_scopes import PathScopes
from hourpass.testing import Issuer
from hourpass.wsgi import GuardMiddleware

pytest_plugins = ["hourpass.testing"]

guard = Guard("https://hourpass.example")
LIMIT = 3 * 2**20
SCOPES: PathScopes = {
    "/v1/models/{model}/predict": "predict:{model}",
    "/files/{model:path}": ["predict:{model}", "read"],
    "/admin/*": "manage",
    "/admin/keys": "keys",
    "/chat": Requirement("predict:{model}", model=from_json("model", "models", max_body=LIMIT)),
    "/upload/{kind}": Requirement("do:{kind}", "predict:{m}", m=from_form("model")),
    "/live": Requirement("predict:{model}", model=from_query("model")),
}
HAS = ("predict:a", "predict:fraud-*", "predict:org/*", "read", "do:audio")


@pytest.fixture(autouse=True)
def issuer(hourpass_issuer: Issuer) -> Issuer:
    hourpass_issuer.attach(guard)
    return hourpass_issuer


CASES = {
    # Status 200 is the app's.
    "/": 200,
    "/v1/models": 200,
    "/v1/models/a": 200,
    "/v1/models/a/predict": 200,
    "/v1/models/fraud-v3/predict": 200,
    "/v1/models/%61/predict": 200,
    "/v1/models/b/predict": 403,
    "/v1/models/b/predict/": 403,
    "/V1/Models/b/PREDICT": 403,
    "/v1/models/A/predict": 403,
    "/v1/model%73/b/predict": 403,
    "/v1/models/*/predict": 400,
    "/v1/models/%2a/predict": 400,
    "/v1/models/fraud-*/predict": 400,
    "/v1/models/a%20b/predict": 400,
    "/v1/models/%c3%a4/predict": 400,
    "/v1/models/%0a/predict": 400,
    "/v1/models/b%00/predict": 400,
    "/v1/models/b/predict%00": 400,
    "/v1/models/b/predict%0a": 400,
    "/v1/models/b;x/predict": 400,
    "/v1/models/b/predict;x": 400,
    "/v1/models;x/b/predict": 400,
    "/v1//models/b/predict": 400,
    "//v1/models/b/predict": 400,
    "/v1/models//predict": 400,
    "/v1/models/b//predict": 400,
    "/v1/./models/b/predict": 400,
    "/v1/x/../models/b/predict": 400,
    "/v1/models/a/../b/predict": 400,
    "/v1/models/%2e%2e/predict": 400,
    "/v1/models%2fb/predict": 400,
    "/v1%2Fmodels/b/predict": 400,
    "/v1/models/a%2f..%2fb/predict": 400,
    "/v1/models/b%252fpredict": 400,
    "/v1/models/%2562/predict": 400,
    "/v1\\models/b/predict": 400,
    "/v1/models/b/predict/..": 400,
    "v1/models/b/predict": 400,
    "*": 400,
    "/files/org/x": 200,
    "/files/org/x/y.bin": 200,
    "/files/other/x": 403,
    "/files/org": 403,
    "/admin": 403,
    "/admin/": 403,
    "/admin/x": 403,
    "/ADMIN/x/y": 403,
    "/administrator": 200,
    "/x/admin": 200,
    "/live?model=a": 200,
    "/live?model=b": 403,
    "/live?model=a&model=b": 400,
    "/live": 400,
    "/health": 200,
    "/public/admin": 200,
}


async def plain_app(scope: Any, receive: Any, send: Any) -> None:
    body = b""
    if scope["type"] == "http":
        more = True
        while more:
            message = await receive()
            body += message.get("body", b"")
            more = message.get("more_body", False)
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": str(len(body)).encode()})


def scope_of(sent: str, token: str, **changes: Any) -> dict[str, Any]:
    path, _, query = sent.partition("?")
    return {
        "type": "http",
        "method": "POST",
        "path": unquote(path, errors="replace"),
        "raw_path": path.encode(),
        "query_string": query.encode(),
        "root_path": "",
        "headers": [(b"authorization", f"Bearer {token}".encode())],
        **changes,
    }


async def answer_to(app: Any, scope: dict[str, Any], *pieces: bytes) -> tuple[int, bytes]:
    sent: list[Any] = []
    messages = [{"type": "http.request", "body": piece, "more_body": True} for piece in pieces]
    messages.append({"type": "http.request", "body": b"", "more_body": False})

    async def receive() -> Any:
        return messages.pop(0) if messages else await asyncio.Future()

    async def send(message: Any) -> None:
        sent.append(message)

    await app(scope, receive, send)
    return sent[0].get("status", sent[0].get("code")), sent[-1].get("body", b"")


def middleware(**options: Any) -> Any:
    public = ["/health", "/public/*"]
    return guard.middleware(plain_app, public=public, scopes=SCOPES, **options)


async def test_no_path_slips_past_its_pattern(issuer: Issuer, subtests: pytest.Subtests) -> None:
    token = issuer.token(*HAS)
    for options in ({}, {"finish_requests": True}):
        app = middleware(**options)
        for path, expected in CASES.items():
            with subtests.test(f"{path} {options}"):
                status, body = await answer_to(app, scope_of(path, token))
                assert status == expected
                if status == 403:
                    assert json.loads(body)["scope"]
    status, _ = await answer_to(middleware(), scope_of("/v1/models/b/predict", "no token"))
    assert status == 401


async def test_every_pattern_that_matches_counts(issuer: Issuer) -> None:
    app = middleware()
    for scopes, path, expected in (
        (["manage"], "/admin/x", 200),
        (["manage"], "/admin/keys", 403),
        (["keys"], "/admin/keys", 403),
        (["manage", "keys"], "/admin/keys", 200),
        (["predict:*"], "/files/x", 403),
    ):
        status, _ = await answer_to(app, scope_of(path, issuer.token(*scopes)))
        assert status == expected


async def test_the_root_path_does_not_matter(issuer: Issuer) -> None:
    token = issuer.token(*HAS)
    for root_path, path, expected in (
        ("/api", "/api/v1/models/b/predict", 403),
        ("/api", "/v1/models/b/predict", 403),
        ("/api/", "/api/v1/models/b/predict", 403),
        ("/v1", "/v1/models/b/predict", 403),  # an app that ignores it
        ("/api", "/api/v1/models/a/predict", 200),
    ):
        status, _ = await answer_to(middleware(), scope_of(path, token, root_path=root_path))
        assert status == expected, (root_path, path)


async def test_a_body_is_checked_and_replayed(issuer: Issuer, subtests: pytest.Subtests) -> None:
    token = issuer.token(*HAS)
    headers = [
        (b"authorization", f"Bearer {token}".encode()),
        (b"content-type", b"application/json"),
    ]
    padding = b'", "x": "' + b"x" * (2 * 2**20) + b'"}'
    for body, expected in (
        (b'{"model": "a"}', 200),
        (b'{"model": "a' + padding, 200),
        (b'{"model": "b' + padding, 403),
        (b'{"model": "b"}', 403),
        (b'{"model": "a", "models": ["b"]}', 403),
        (b'{"model": "a", "model": "b"}', 400),
        (b"", 400),
        (b" " * (LIMIT + 1), 413),
    ):
        with subtests.test(str(body[:40])):
            scope = scope_of("/chat", token, headers=headers)
            pieces = [body[start : start + 2**16] for start in range(0, len(body), 2**16)]
            status, answer = await answer_to(middleware(), scope, *pieces)
            assert status == expected
            if status == 200:
                assert int(answer) == len(body)
    form = [headers[0], (b"content-type", b"application/x-www-form-urlencoded")]
    for path, content, expected in (
        ("/upload/audio", b"model=a", 200),
        ("/upload/audio", b"model=b", 403),
        ("/upload/video", b"model=a", 403),
    ):
        with subtests.test(f"{path} {content!r}"):
            scope = scope_of(path, token, headers=form)
            assert (await answer_to(middleware(), scope, content))[0] == expected


async def test_a_websocket_is_checked_too(issuer: Issuer) -> None:
    token = issuer.token(*HAS)
    for path, expected in (("/live?model=b", 1008), ("/live?model=a", 200), ("/chat", 1008)):
        scope = scope_of(path, token, type="websocket")
        assert (await answer_to(middleware(), scope))[0] == expected


def test_wsgi_knows_the_same_patterns(issuer: Issuer, subtests: pytest.Subtests) -> None:
    def model(_: Any, start_response: Any) -> list[bytes]:
        start_response("200 OK", [])
        return []

    scopes = {path: needed for path, needed in SCOPES.items() if path[1:5] not in ("chat", "uplo")}
    app = GuardMiddleware(model, guard, ["/health", "/public/*"], scopes=scopes)
    token = issuer.token(*HAS)
    for sent, expected in CASES.items():
        path, _, query = sent.partition("?")
        statuses: list[str] = []
        environ = {
            "REQUEST_METHOD": "POST",
            "PATH_INFO": unquote(path, encoding="latin-1"),
            "REQUEST_URI": sent,
            "QUERY_STRING": query,
            "HTTP_AUTHORIZATION": f"Bearer {token}",
        }
        with subtests.test(sent):
            list(app(environ, lambda status, _, statuses=statuses: statuses.append(status)))
            assert statuses[0][:3] == str(expected)
    with pytest.raises(ValueError, match="WSGI"):
        GuardMiddleware(model, guard, scopes=SCOPES)


def test_a_wrong_pattern_is_an_error(subtests: pytest.Subtests) -> None:
    wrong: list[tuple[str, str | list[str]]] = [
        ("v1", "x"),
        ("/v1/*/x", "x"),
        ("/v1/{model", "x"),
        ("/v1/{model:int}", "x"),
        ("/v1/{model}", "predict:{name}"),
        ("/v1", "a b"),
        ("/v1", []),
    ]
    for pattern, needed in wrong:
        with subtests.test(pattern), pytest.raises(ValueError, match=r"path|has no|scopes"):
            guard.middleware(plain_app, scopes={pattern: needed})


def test_the_openapi_shows_the_scopes_of_the_paths() -> None:
    async def predict(model: str) -> None: ...

    app = FastAPI()
    app.add_api_route("/v1/models/{model}/predict", predict)
    for path in ("/admin/keys", "/other", "/train"):
        app.add_api_route(path, lambda: "")
    guard.protect(app, public=["/other"], scopes=SCOPES)
    openapi: dict[str, Any] = app.openapi()
    validate(openapi)
    security = {path: methods["get"]["security"] for path, methods in openapi["paths"].items()}
    assert security == {
        "/v1/models/{model}/predict": [{"Hourpass": ["predict:{model}"]}],
        "/admin/keys": [{"Hourpass": ["manage", "keys"]}],
        "/other": [],
        "/train": [{"Hourpass": []}],
    }
