"""`guard.require("predict:{model}")` in FastAPI: only users with the scope reach the endpoint."""

import asyncio
import gc
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote

import httpx
import pytest
import trio
from fastapi import APIRouter, Depends, FastAPI, Form, Request, UploadFile, WebSocket
from fastapi.responses import StreamingResponse
from openapi_spec_validator import validate
from pydantic import BaseModel
from starlette.applications import Starlette
from starlette.routing import Mount
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from hourpass import (
    Guard,
    InsufficientScopeError,
    InvalidRequestError,
    User,
    from_form,
    from_json,
    from_query,
)
from hourpass.guard import request_body
from hourpass.guard.request_body import RequestBody
from hourpass.testing import Issuer, authorization
from tests.support.guards import comes_true, fast_garbage_collection
from tests.support.servers import served

pytest_plugins = ["hourpass.testing"]

guard = Guard("https://hourpass.example")
SMALL, LIMIT = 2**20, 3 * 2**20
by_path = guard.require("predict:{model}")
by_body = guard.require("predict:{model}", model=from_json("model", "models", max_body=LIMIT))
by_form = guard.require("predict:{model}", model=from_form("model", max_body=LIMIT))
by_query = guard.require("predict:{model}", model=from_query("model"))


class Chat(BaseModel):
    model: str
    messages: list[str] = []
    stream: bool = False


api = FastAPI()
seen: list[Any] = []  # what reached a model


@api.post("/models/{model}/predict", dependencies=[Depends(by_path)])
async def predict(model: str) -> None:
    seen.append(model)


@api.post("/files/{model:path}", dependencies=[Depends(by_path)])
async def predict_file(model: str) -> None:
    seen.append(model)


@api.post("/orgs/{org}/{model}")
async def predict_of(
    org: str, model: str, _: Annotated[User, Depends(guard.require("predict:{org}/{model}"))]
) -> None:
    seen.append((org, model))


@api.post("/chat", dependencies=[Depends(by_body)])
async def chat(body: Chat) -> StreamingResponse:
    seen.append(body.model)

    async def pieces() -> AsyncIterator[str]:
        for message in body.messages:
            yield f"{message}\n"
            await asyncio.sleep(0)

    return StreamingResponse(pieces())


@api.post("/raw", dependencies=[Depends(by_body), Depends(by_body), Depends(guard)])
async def raw(request: Request) -> int:
    pieces = [len(piece) async for piece in request.stream()]
    seen.append(sum(pieces))
    return max(pieces)


@api.post("/whole", dependencies=[Depends(by_body)])
async def whole(request: Request) -> int:
    seen.append((await request.json())["model"])
    return len(await request.body())


@api.post("/transcriptions", dependencies=[Depends(by_form)])
async def transcribe(file: UploadFile, model: Annotated[str, Form()]) -> int:
    seen.append(model)
    return len(await file.read())


@api.post("/raw-form", dependencies=[Depends(by_form)])
async def raw_form(request: Request) -> int:
    async with request.form() as form:
        seen.append(form["model"])
        file: Any = form["file"]
        return len(await file.read())


@api.websocket("/realtime")
async def realtime(socket: WebSocket, model: str, _: Annotated[User, Depends(by_query)]) -> None:
    await socket.accept()
    await socket.send_text(model)
    await socket.close()


@pytest.fixture(autouse=True)
def issuer(hourpass_issuer: Issuer) -> Issuer:
    hourpass_issuer.attach(guard)
    seen.clear()
    return hourpass_issuer


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with served(api) as url:
        yield url


@pytest.fixture
def client(url: str, issuer: Issuer) -> Iterator[httpx.Client]:
    headers = authorization(issuer.token("predict:a", "predict:fraud-*", "predict:meta-llama/*"))
    with httpx.Client(base_url=url, headers=headers) as client:
        yield client


def test_the_name_in_the_path_decides(client: httpx.Client, subtests: pytest.Subtests) -> None:
    for model, status in {
        "a": 200,
        "fraud-v3": 200,
        "b": 403,
        "A": 403,
        "*": 400,
        "fraud-*": 400,
        "fraud-v3*": 400,
        "a b": 400,
        "a\n": 400,
        "a\0": 400,
        'a"': 400,
        "a\\": 400,
        "ä": 400,
        "%61": 400,
        "fraud-%2e": 400,
        "..": 400,
        "a" * 200: 400,
        "{model}": 403,
    }.items():
        with subtests.test(model):
            seen.clear()
            path = f"/models/{quote(model, safe='').replace('.', '%2e')}/predict"
            response = client.post(path)
            assert response.status_code == status
            assert seen == ([model] if status == 200 else [])
            assert "models" not in response.text
    assert client.post("/models/a%2Fb/predict").status_code == 404


def test_a_name_with_slashes_is_a_path(client: httpx.Client, subtests: pytest.Subtests) -> None:
    for path, status in {
        "meta-llama/Llama-3.1-8B-Instruct": 200,
        "meta-llama%2FLlama": 200,  # the route sees the same name
        "meta-llama": 403,
        "meta-llama/": 400,
        "meta-llama//x": 400,
        "meta-llama/%2e%2e/other/x": 400,
        "meta-llama/..%2fother": 400,
        "%2fmeta-llama/x": 400,
    }.items():
        with subtests.test(path):
            assert client.post(f"/files/{path}").status_code == status
    for path, status in {"meta-llama/x": 200, "other/x": 403, "meta-llama/*": 400}.items():
        with subtests.test(f"two names: {path}"):
            assert client.post(f"/orgs/{path}").status_code == status


def test_the_403_says_what_is_needed(client: httpx.Client, issuer: Issuer) -> None:
    response = client.post("/models/fraud/predict")
    assert response.status_code == 403
    assert response.headers["WWW-Authenticate"].endswith('scope="predict:fraud"')
    assert (response.json()["error"], response.json()["scope"]) == (
        "insufficient_scope",
        "predict:fraud",
    )
    assert client.post("/models/a/predict", headers={"Authorization": ""}).status_code == 401
    for granted in ("predict:*", "predict:fraud", "predict:f*"):
        headers = authorization(issuer.token(granted))
        assert client.post("/models/fraud/predict", headers=headers).status_code == 200


def test_the_name_in_the_body_decides(client: httpx.Client, subtests: pytest.Subtests) -> None:
    for path in ("/chat", "/raw", "/whole"):
        for body, status in {
            '{"model": "a"}': 200,
            '{"model": "b"}': 403,
            '{"model": "*"}': 400,
            '{"model": "a", "models": ["fraud-1", "fraud-2"]}': 200,
            '{"model": "a", "models": ["fraud-1", "b"]}': 403,
            '{"model": "a", "models": ["fraud-*"]}': 400,
            '{"model": "a", "model": "b"}': 400,
            '{"model": "b", "model": "a"}': 400,
            '{"model": "a", "Model": "b"}': 400,
            '{"model": ""}': 400,
            '{"messages": []}': 400,
            '{"model": "a"': 422 if path == "/chat" else 400,  # FastAPI itself refuses it
            "": 400,
        }.items():
            with subtests.test(f"{path} {body}"):
                seen.clear()
                headers = {"Content-Type": "application/json"}
                response = client.post(path, content=body, headers=headers)
                assert response.status_code == status
                assert bool(seen) == (status == 200)
                if status == 400:
                    assert response.json()["error"] == "invalid_request"
    response = client.post("/whole", json={"model": "a", "models": ["b"]})
    assert response.json()["scope"] == "predict:a predict:b"


def body_of(size: int) -> bytes:
    body = b'{"model": "a", "padding": "' + b"x" * size
    return body[: size - 2] + b'"}'


def test_a_body_of_any_size_reaches_the_endpoint(
    client: httpx.Client, subtests: pytest.Subtests
) -> None:
    headers = {"Content-Type": "application/json"}
    for size in (100, SMALL - 1, SMALL, SMALL + 1, LIMIT):
        body = body_of(size)
        for content in (body, iter([body[:10], body[10:]])):
            with subtests.test(f"{size} {type(content).__name__}"):
                response = client.post("/raw", content=content, headers=headers)
                assert (response.status_code, seen.pop()) == (200, size)
                if size > SMALL:
                    assert response.json() == request_body.PIECE_BYTES
        response = client.post("/whole", content=body, headers=headers)
        assert (response.json(), seen.pop()) == (size, "a")
    for path in ("/raw", "/whole", "/chat"):
        for content in (body_of(LIMIT + 1), iter([body_of(LIMIT + 1)])):
            with subtests.test(f"too large {path} {type(content).__name__}"):
                response = client.post(path, content=content, headers=headers)
                assert response.status_code == 413
                assert response.json()["error"] == "content_too_large"
    assert seen == []


def open_files() -> set[str]:
    found = set()
    for path in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):
            found.add(str(path.readlink()))
    gc.collect()
    return {name for name in found if name.endswith("(deleted)")}


def test_no_file_is_left_behind(client: httpx.Client) -> None:
    headers = {"Content-Type": "application/json"}
    with fast_garbage_collection():
        before = open_files()
        for size in (LIMIT, LIMIT + 1):
            client.post("/raw", content=iter([body_of(size)]), headers=headers)
        assert comes_true(lambda: open_files() <= before)


def test_an_upload_names_its_model(client: httpx.Client, subtests: pytest.Subtests) -> None:
    for path in ("/transcriptions", "/raw-form"):
        for model, status in {"a": 200, "b": 403, "*": 400}.items():
            for size in (10, SMALL + 10):
                with subtests.test(f"{path} {model} {size}"):
                    seen.clear()
                    files = {"file": ("a.wav", b"x" * size, "audio/wav")}
                    response = client.post(path, data={"model": model}, files=files)
                    assert response.status_code == status
                    assert seen == (["a"] if status == 200 else [])
                    assert status != 200 or response.json() == size
        malformed: dict[str, list[Any]] = {
            "two": [("model", (None, "a")), ("model", (None, "b"))],
            "another case": [("model", (None, "a")), ("Model", (None, "b"))],
            "a list": [("model", (None, "a")), ("model[]", (None, "b"))],
            "a file": [("model", ("a", "a"))],
            "none": [("other", (None, "a"))],
        }
        for case, parts in malformed.items():
            with subtests.test(f"{path} {case}"):
                seen.clear()
                response = client.post(path, files=[*parts, ("file", ("x", b"x"))])
                assert (response.status_code, seen) == (400, [])
        with subtests.test(f"{path} JSON"):
            assert client.post(path, json={"model": "a"}).status_code == 400


def test_a_response_is_still_streamed(client: httpx.Client) -> None:
    body = {"model": "a", "messages": ["one", "two"], "stream": True}
    with client.stream("POST", "/chat", json=body) as response:
        assert list(response.iter_lines()) == ["one", "two"]


def test_a_websocket_names_its_model_in_the_query(
    url: str, issuer: Issuer, subtests: pytest.Subtests
) -> None:
    address = f"{url.replace('http', 'ws')}/realtime"
    headers = authorization(issuer.token("predict:a"))
    with connect(f"{address}?model=a", additional_headers=headers) as socket:
        assert socket.recv() == "a"
    for query in (
        "model=b",
        "model=a&model=b",
        "model=b&model=a",
        "model=a;model=b",
        "model=*",
        "",
    ):
        with subtests.test(query), pytest.raises(InvalidStatus, match="403"):
            connect(f"{address}?{query}", additional_headers=headers)


def scope_of(path: str, token: str, length: int | None = None) -> dict[str, Any]:
    headers = [
        (b"authorization", f"Bearer {token}".encode()),
        (b"content-type", b"application/json"),
    ]
    if length:
        headers.append((b"content-length", str(length).encode()))
    return {
        "type": "http",
        "method": "POST",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": headers,
    }


async def answer_to(app: Any, scope: dict[str, Any], *messages: dict[str, Any]) -> list[Any]:
    sent: list[Any] = []
    left = list(messages)

    async def receive() -> dict[str, Any]:
        return left.pop(0) if left else await asyncio.Future()

    async def send(message: Any) -> None:
        sent.append(message)

    await app(scope, receive, send)
    return sent


async def test_a_client_that_leaves_or_dawdles_is_let_go(
    issuer: Issuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = issuer.token("predict:*")
    piece = {"type": "http.request", "body": b'{"model"', "more_body": True}
    start, _ = await answer_to(api, scope_of("/raw", token), piece, {"type": "http.disconnect"})
    assert start["status"] == 400
    monkeypatch.setattr(request_body, "MAX_PAUSE_SECONDS", 0.01)
    start, body = await answer_to(api, scope_of("/raw", token), piece)
    assert start["status"] == 400
    assert json.loads(body["body"])["message"] == "The body arrived too slowly"
    start, _ = await answer_to(api, scope_of("/raw", token, LIMIT + 1))  # without reading it
    assert start["status"] == 413
    assert seen == []


def test_a_body_is_read_in_trio_too(monkeypatch: pytest.MonkeyPatch) -> None:
    pieces = [b"x" * SMALL, b"y" * 10]

    async def receive() -> dict[str, Any]:
        if not pieces:
            await trio.sleep_forever()
        return {"type": "http.request", "body": pieces.pop(0), "more_body": True}

    async def read() -> None:
        await RequestBody(receive).read(LIMIT)

    monkeypatch.setattr(request_body, "MAX_PAUSE_SECONDS", 0.01)
    with pytest.raises(InvalidRequestError, match="slowly"):
        trio.run(read)
    assert pieces == []


def routes_that_fail() -> dict[str, FastAPI | Starlette]:
    apps = {name: FastAPI() for name in ("plain", "included", "mounted", "app-wide", "websocket")}

    async def endpoint() -> None: ...

    async def socket(socket: WebSocket) -> None: ...

    dependencies = [Depends(by_path)]
    apps["plain"].add_api_route("/models/{name}", endpoint, dependencies=dependencies)
    router = APIRouter(dependencies=dependencies)
    router.add_api_route("/models", endpoint)
    apps["included"].include_router(router, prefix="/v1")
    inner = FastAPI()
    inner.add_api_route("/models", endpoint, dependencies=dependencies)
    apps["mounted"].mount("/v1", inner)
    apps["app-wide"] = FastAPI(dependencies=dependencies)
    apps["app-wide"].add_api_route("/models", endpoint)
    apps["websocket"].add_api_websocket_route("/live", socket, dependencies=dependencies)
    body = FastAPI()
    body.add_api_websocket_route("/live", socket, dependencies=[Depends(by_body)])
    return {
        **apps,
        "websocket with a body": body,
        "Starlette": Starlette(routes=[Mount("/", inner)]),
    }


def routes_that_fit() -> FastAPI:
    async def endpoint() -> None: ...

    app, dependencies = FastAPI(), [Depends(by_path)]
    app.add_api_route("/models/{model}", endpoint, dependencies=dependencies)
    router = APIRouter(prefix="/{model}", dependencies=dependencies)
    router.add_api_route("/predict", endpoint)
    app.include_router(router, prefix="/v1")
    outer = APIRouter()
    outer.add_api_route("/predict", endpoint, dependencies=dependencies)
    middle = APIRouter()
    middle.include_router(outer, prefix="/b")
    app.include_router(middle, prefix="/a/{model}")
    inner = FastAPI()
    inner.add_api_route("/predict", endpoint, dependencies=dependencies)
    app.mount("/mounted/{model}", inner)
    return app


async def test_an_app_does_not_start_if_a_path_lacks_the_name(
    issuer: Issuer, subtests: pytest.Subtests
) -> None:
    headers = authorization(issuer.token("predict:*"))
    fitting = routes_that_fit()
    guard.check_routes(fitting)
    guard.protect(fitting)
    assert [m["type"] for m in await lifespan_of(fitting)] == ["lifespan.startup.complete"]
    for case, app in routes_that_fail().items():
        with subtests.test(case), pytest.raises(ValueError, match="which it requires"):
            guard.check_routes(app)
        with subtests.test(f"{case} without protect()"):
            app.add_api_route("/", lambda: "", dependencies=[Depends(guard)]) if isinstance(
                app, FastAPI
            ) else None
            transport = httpx.ASGITransport(app)
            async with httpx.AsyncClient(transport=transport, base_url="http://x") as client:
                path = "/" if isinstance(app, FastAPI) else "/models"
                for _ in range(2):
                    with pytest.raises(ValueError, match="which it requires"):
                        await client.get(path, headers=headers)
    for case, app in routes_that_fail().items():
        with subtests.test(f"{case} with protect()"):
            guard.protect(app)
            [message] = await lifespan_of(app)
            assert message["type"] == "lifespan.startup.failed"
        with subtests.test(f"{case} within the middleware"):
            [message] = await lifespan_of(guard.middleware(routes_that_fail()[case]))
            assert message["type"] == "lifespan.startup.failed"


async def lifespan_of(app: Any) -> list[Any]:
    scope = {"type": "lifespan", "asgi": {}, "state": {}}
    task = asyncio.create_task(answer_to(app, scope, {"type": "lifespan.startup"}))
    done, _ = await asyncio.wait([task], timeout=0.5)
    if done:
        return await task
    task.cancel()
    return [{"type": "lifespan.startup.complete"}]


async def test_a_wrong_requirement_is_an_error(subtests: pytest.Subtests) -> None:
    for scopes in (
        ("predict{model}",),
        ("{action}:x",),
        ("predict:{a}{b}",),
        ("predict:{a}-{b}",),
        ("predict:../{a}",),
        ("predict:{a b}",),
    ):
        with subtests.test(str(scopes)), pytest.raises(ValueError, match="scope"):
            guard.require(*scopes)
    with pytest.raises(ValueError, match="name"):
        guard.require("predict", model=from_json("model"))


def test_the_openapi_shows_the_scopes() -> None:
    openapi: dict[str, Any] = api.openapi()
    validate(openapi)
    for path in ("/models/{model}/predict", "/chat", "/transcriptions"):
        assert openapi["paths"][path]["post"]["security"] == [{"Hourpass": ["predict:{model}"]}]


def test_code_without_a_route_can_ask_too(issuer: Issuer) -> None:
    token = issuer.token("predict:fraud-*", "train")
    user = guard.check(token, "predict:fraud-v3", "train")
    assert guard.check_header(f"Bearer {token}", "train") == user
    for scopes in (["predict:x"], ["train", "predict:*"], ["predict:fraud-/../x"]):
        with pytest.raises(InsufficientScopeError):
            guard.check(token, *scopes)
    with pytest.raises(InsufficientScopeError) as refused:
        guard.check(token, 'predict:x"\r\nX: y', "admin")
    assert refused.value.headers()["WWW-Authenticate"].endswith(', scope="admin"')
    names = ["fraud-v3", "fraud", "fraud-*", "fraud-a b", "..", "other"]
    assert guard.visible(user, names) == ["fraud-v3"]
    assert guard.visible(user, names, "train:{name}") == []
    with pytest.raises(ValueError, match="one"):
        guard.visible(user, names, "train")


async def test_asynchronous_code_can_ask_too(issuer: Issuer) -> None:
    token = issuer.token("predict:fraud-*")
    assert await guard.acheck(token, "predict:fraud-v3") == await guard.acheck_header(token)
    for check in (guard.acheck, guard.acheck_header):
        with pytest.raises(InsufficientScopeError):
            await check(token, "predict:fraud")
