"""The middleware opens only the paths that are named, in their own spelling."""

import asyncio
import os
import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import unquote

import httpx
import pytest
from fastapi import FastAPI, Request, Response, WebSocket
from starlette.applications import Starlette
from starlette.routing import Mount
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from hourpass import Guard
from hourpass.testing import Issuer, authorization
from tests.support.processes import environment
from tests.support.servers import served

pytest_plugins = ["hourpass.testing"]

guard = Guard("https://hourpass.example")
PUBLIC = ["/health", "/static/*", "/"]


@pytest.fixture(autouse=True)
def issuer(hourpass_issuer: Issuer) -> Issuer:
    hourpass_issuer.attach(guard)
    return hourpass_issuer


def make_api() -> FastAPI:
    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[dict[str, str]]:
        yield {"started": "yes"}

    api = FastAPI(lifespan=lifespan)
    api.add_middleware(guard.middleware, public=PUBLIC)

    @api.websocket("/stream")
    async def stream(socket: WebSocket) -> None:
        await socket.accept()
        await socket.send_text(socket.state.user.username)
        await socket.close()

    @api.api_route("/{path:path}", methods=["GET", "POST"])
    async def anything(request: Request, response: Response) -> str:
        response.headers["Started"] = request.state.started
        user = getattr(request.state, "user", None)
        return user.username if user else "nobody"

    return api


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with served(make_api()) as url:
        yield url


@pytest.fixture
def client(url: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=url) as client:
        yield client


def test_the_app_knows_its_user(client: httpx.Client, issuer: Issuer) -> None:
    response = client.get("/predict", headers=authorization(issuer.token()))
    assert (response.status_code, response.json()) == (200, "lancelot")


def test_the_lifespan_passes_through(client: httpx.Client) -> None:
    assert client.get("/health").headers["Started"] == "yes"


def test_public_paths_need_no_token(client: httpx.Client, subtests: pytest.Subtests) -> None:
    for path in ("/", "/health", "/static/", "/static/a/x.css"):
        with subtests.test(path):
            response = client.get(path)
            assert (response.status_code, response.json()) == (200, "nobody")


CLOSED = [
    "/predict",
    "/health/",
    "/Health",
    "/healthy",
    "/health/../predict",
    "/static",
    "/staticky",
    "//health",
    "//static/a",
    "/static//predict",
    "/static/../predict",
    "/static/./predict",
    "/static/..",
    "/static/..;/predict",
    "/static/..%2fpredict",
    "/static/%2e%2e/predict",
    "/static/%2e%2e%2fpredict",
    "/static/%252e%252e/predict",
    "/static%2f..%2fpredict",
    "/static%2Fa",
    "/static/..\\predict",
    "/static/%00",
    "/a/static/b",
    "*",
    "health",
    "",
]


async def test_everything_else_needs_one(subtests: pytest.Subtests) -> None:
    """The path as servers pass it on: decoded once."""
    for path in CLOSED:
        with subtests.test(path):
            scope = {
                "type": "http",
                "path": unquote(path),
                "raw_path": path.encode(),
                "headers": [],
                "root_path": "",
            }
            assert (await answer_to(scope))["status"] == 401


async def answer_to(scope: dict[str, Any], **options: Any) -> dict[str, Any]:
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    middleware = guard.middleware(plain_app, **{"public": PUBLIC, **options})
    await middleware(scope, asyncio.Queue[Any]().get, send)
    first: dict[str, Any] = sent[0]
    return first


async def plain_app(_scope: Any, _receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b""})


# The path at which the app is mounted, the path of the request, and whether it is public.
MOUNTED = [
    ("/api", "/api/health", True),
    ("/api/", "/api/health", True),
    ("/api", "/health", True),  # behind a proxy that strips the prefix
    ("/api", "/api/predict", False),
    ("/api", "/apihealth", False),
    ("/api", "/api/api/health", False),
    ("/api", "/api", False),
    ("/health", "/health", False),
    ("/health", "/healthy", True),  # as the app's routes read it
    ("/box", "/box/health", True),
    ("", "/api/health", False),
]


async def test_public_paths_are_the_apps_own_wherever_it_is_mounted(
    subtests: pytest.Subtests,
) -> None:
    for root_path, path, is_public in MOUNTED:
        with subtests.test(f"{path} in {root_path}"):
            scope = {"type": "http", "path": path, "root_path": root_path, "headers": []}
            answer = await answer_to(scope, public=["/health", "/healthy"])
            assert (answer["status"] == 200) == is_public


async def test_a_mounted_app_is_closed_as_well(issuer: Issuer) -> None:
    mounted = Starlette(routes=[Mount("/v1", guard.middleware(plain_app, public=["/health"]))])
    transport = httpx.ASGITransport(mounted)
    async with httpx.AsyncClient(transport=transport, base_url="http://api.example") as client:
        assert (await client.get("/v1/health")).status_code == 200
        assert (await client.get("/v1/predict")).status_code == 401
        headers = authorization(issuer.token())
        assert (await client.get("/v1/predict", headers=headers)).status_code == 200


def test_a_refusal_is_json_with_a_challenge(client: httpx.Client, issuer: Issuer) -> None:
    missing = client.post("/predict")
    assert missing.json() == {
        "message": "A bearer token is needed",
        "error": "missing_token",
        "code": "missing_token",
    }
    assert missing.headers["WWW-Authenticate"] == 'Bearer realm="hourpass"'
    expired = client.get("/predict", headers=authorization(issuer.expired_token()))
    assert expired.status_code == 401
    assert (expired.json()["message"], expired.json()["code"]) == ("Invalid token", "invalid_token")
    assert expired.headers["WWW-Authenticate"].endswith('error="invalid_token"')
    with issuer.outage():
        away = client.get("/predict", headers=authorization(issuer.token()))
    assert (away.status_code, away.json()["error"]) == (503, "temporarily_unavailable")
    assert away.headers["Retry-After"] == "2"


def test_a_websocket_is_refused_before_it_is_accepted(url: str, issuer: Issuer) -> None:
    address = f"{url.replace('http', 'ws')}/stream"
    with connect(address, additional_headers=authorization(issuer.token())) as socket:
        assert socket.recv() == "lancelot"
    with pytest.raises(InvalidStatus) as refusal:
        connect(address)
    assert refusal.value.response.status_code == 401
    assert refusal.value.response.headers["WWW-Authenticate"] == 'Bearer realm="hourpass"'


async def test_a_websocket_on_a_server_that_cannot_deny_is_closed() -> None:
    answer = await answer_to({"type": "websocket", "path": "/stream", "headers": []})
    assert answer == {"type": "websocket.close", "code": 1008, "reason": "A bearer token is needed"}


async def test_a_websocket_on_a_public_path_needs_no_token() -> None:
    answer = await answer_to({"type": "websocket", "path": "/static/a", "headers": []})
    assert answer["status"] == 200


async def test_a_kind_of_request_that_is_not_known_yet_is_never_public() -> None:
    answer = await answer_to({"type": "webtransport", "path": "/health", "headers": []})
    assert answer["status"] == 401


async def test_a_refusal_has_the_headers_that_asgi_asks_for() -> None:
    """In lower case, as some servers send them unchanged."""
    answer = await answer_to({"type": "http", "path": "/predict", "headers": []})
    assert answer["headers"] == [
        (b"content-type", b"application/json"),
        (b"content-length", b"90"),
        (b"www-authenticate", b'Bearer realm="hourpass"'),
    ]


@pytest.mark.parametrize("public", [["health"], ["/a*"], ["/*/b"], ["*"], [""]])
def test_an_ambiguous_pattern_is_rejected(public: list[str]) -> None:
    with pytest.raises(ValueError, match="public path"):
        guard.middleware(make_api(), public)


def test_a_single_path_is_not_read_as_a_list_of_characters() -> None:
    with pytest.raises(TypeError, match="list"):
        guard.middleware(make_api(), "/health")


def test_check_and_middleware_work_without_fastapi() -> None:
    """Run the program in a process that cannot import it."""
    program = """
        import sys
        for name in ("fastapi", "starlette"):
            sys.modules[name] = None
        import asyncio
        from hourpass import Guard, InvalidTokenError
        from hourpass.testing import Issuer
        guard, issuer = Guard("https://hourpass.example"), Issuer()
        issuer.attach(guard)
        assert guard.check(issuer.token()).username == "lancelot"

        async def app(scope, receive, send):
            await send({"status": 200})

        async def status(path):
            sent = []
            async def send(message):
                sent.append(message)
            scope = {"type": "http", "path": path, "headers": []}
            await guard.middleware(app, public=["/health"])(scope, None, send)
            return sent[0]["status"]

        assert asyncio.run(status("/health")) == 200
        assert asyncio.run(status("/predict")) == 401
        issuer.close()
        assert not any(sys.modules.get(name) for name in ("fastapi", "starlette"))
    """
    variables = environment(PYTHONPATH=os.environ.get("PYTHONPATH", ""))
    subprocess.run([sys.executable, "-c", textwrap.dedent(program)], env=variables, check=True)


def test_what_fastapi_itself_lacks_is_not_taken_for_a_missing_fastapi() -> None:
    """Otherwise no route could depend on the guard, and nothing would say why."""
    program = """
        import sys
        sys.modules["pydantic"] = None
        try:
            from hourpass import Guard
        except ModuleNotFoundError as error:
            assert error.name == "pydantic", error.name
        else:
            raise AssertionError
    """
    variables = environment(PYTHONPATH=os.environ.get("PYTHONPATH", ""))
    subprocess.run([sys.executable, "-c", textwrap.dedent(program)], env=variables, check=True)
