"""Websockets, streams and requests that are open when their token expires or is revoked."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from functools import partial
from typing import Any

import httpx
import pytest
from fastapi import APIRouter, BackgroundTasks, FastAPI, WebSocket
from starlette.responses import StreamingResponse
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from hourpass import Guard
from hourpass.guard import open_requests
from hourpass.testing import LIFETIME, Issuer, authorization
from tests.support.guards import comes_true
from tests.support.servers import served
from tests.support.waiting import until

pytest_plugins = ["hourpass.testing"]

guard = Guard("https://hourpass.example")
patient_guard = Guard("https://hourpass.example")  # of the app that lets requests finish
ended: list[str] = []


@pytest.fixture(autouse=True)
def issuer(hourpass_issuer: Issuer, monkeypatch: pytest.MonkeyPatch) -> Issuer:
    monkeypatch.setattr(open_requests, "CHECK_SECONDS", 0.02)
    hourpass_issuer.attach(guard)
    hourpass_issuer.attach(patient_guard)
    ended.clear()
    return hourpass_issuer


begun, release = threading.Event(), threading.Event()
routes = APIRouter()


@routes.websocket("/echo")
async def echo(socket: WebSocket) -> None:
    await socket.accept()
    try:
        async for text in socket.iter_text():
            await socket.send_text(text)
    finally:
        ended.append("echo")


@routes.websocket("/unaccepted")
async def unaccepted(_socket: WebSocket) -> None:
    begun.set()
    await asyncio.Event().wait()


@routes.get("/stream")
async def stream() -> StreamingResponse:
    async def numbers() -> AsyncIterator[str]:
        yield "first\n"
        await asyncio.Event().wait()

    return StreamingResponse(numbers(), media_type="text/event-stream")


@routes.get("/thread")
def thread() -> StreamingResponse:
    def numbers() -> Iterator[str]:
        yield "first\n"
        release.wait(60)  # cannot be cancelled

    return StreamingResponse(numbers())


@routes.get("/predict")
async def predict() -> str:
    begun.set()
    try:
        await until(release.is_set)
    finally:
        ended.append("predict")
    return "42"


@routes.get("/background")
async def background(tasks: BackgroundTasks) -> str:
    async def later() -> None:
        await until(release.is_set)
        ended.append("background")

    tasks.add_task(later)
    return "42"


def make_api(guard: Guard, **options: Any) -> FastAPI:
    api = FastAPI()
    guard.protect(api, **options)
    api.include_router(routes)
    return api


@pytest.fixture(autouse=True)
def _fresh_events() -> Iterator[None]:
    begun.clear()
    release.clear()
    yield
    release.set()


@contextmanager
def meanwhile(*actions: Callable[[], None]) -> Iterator[None]:
    """Do this once the app has begun to work on a request."""

    def act() -> None:
        assert begun.wait(60)
        for action in actions:
            action()

    thread = threading.Thread(target=act)
    thread.start()
    yield
    thread.join()


def pause_for_many_checks() -> None:
    time.sleep(10 * open_requests.CHECK_SECONDS)


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with served(make_api(guard)) as url:
        yield url


@pytest.fixture(scope="module")
def patient_url() -> Iterator[str]:
    with served(make_api(patient_guard, finish_requests=True)) as url:
        yield url


def open_socket(url: str, path: str, token: str) -> ClientConnection:
    return connect(url.replace("http", "ws") + path, additional_headers=authorization(token))


def closing_of(socket: ClientConnection) -> tuple[int, str]:
    with pytest.raises(ConnectionClosed) as closed:
        socket.recv(timeout=5)
    assert closed.value.rcvd
    return closed.value.rcvd.code, closed.value.rcvd.reason


@pytest.mark.parametrize("kind", ["patient_url", "url"])
def test_a_websocket_ends_when_its_token_is_revoked(
    request: pytest.FixtureRequest, issuer: Issuer, kind: str
) -> None:
    token, other = issuer.token(), issuer.token(user_id=2)
    url = request.getfixturevalue(kind)
    with open_socket(url, "/echo", token) as socket, open_socket(url, "/echo", other) as unrelated:
        socket.send("before")
        assert socket.recv() == "before"
        issuer.revoke(token)
        assert closing_of(socket) == (1008, "The token was revoked")
        unrelated.send("after")
        assert unrelated.recv() == "after"


def test_a_websocket_ends_when_its_user_is_disabled(url: str, issuer: Issuer) -> None:
    with open_socket(url, "/echo", issuer.token(user_id=7)) as socket:
        issuer.disable(7)
        assert closing_of(socket) == (1008, "The token was revoked")


def test_a_websocket_ends_when_its_token_expires(url: str, issuer: Issuer) -> None:
    with open_socket(url, "/echo", issuer.token()) as socket:
        issuer.advance_time(LIFETIME - timedelta(seconds=30))
        socket.send("nearly")
        assert socket.recv() == "nearly"
        issuer.advance_time(timedelta(seconds=31))
        assert closing_of(socket) == (1008, "The token has expired")


async def test_an_ended_app_is_cancelled(url: str, issuer: Issuer) -> None:
    token = issuer.token()
    with open_socket(url, "/echo", token):
        issuer.revoke(token)
        await until(lambda: "echo" in ended)


def test_a_websocket_that_was_not_accepted_yet_is_refused(url: str, issuer: Issuer) -> None:
    token = issuer.token()
    with meanwhile(lambda: issuer.revoke(token)), pytest.raises(InvalidStatus) as refusal:
        open_socket(url, "/unaccepted", token)
    assert refusal.value.response.status_code == 401


@pytest.mark.parametrize("path", ["/stream", "/thread"])
@pytest.mark.parametrize("event", ["revoked", "expired"])
def test_a_stream_ends_with_its_token(url: str, issuer: Issuer, path: str, event: str) -> None:
    token = issuer.token()
    with httpx.stream("GET", url + path, headers=authorization(token)) as response:
        lines = response.iter_lines()
        assert next(lines) == "first"
        if event == "revoked":
            issuer.revoke(token)
        else:
            issuer.advance_time(LIFETIME)
        assert list(lines) == []


def test_a_request_without_a_response_ends_with_401_when_its_token_is_revoked(
    url: str, issuer: Issuer
) -> None:
    token = issuer.token()
    with meanwhile(lambda: issuer.revoke(token)):
        response = httpx.get(f"{url}/predict", headers=authorization(token))
    assert (response.status_code, response.json()["message"]) == (401, "The token was revoked")
    assert response.headers["WWW-Authenticate"].endswith('error="invalid_token"')
    assert ended == ["predict"]


def test_a_request_without_a_response_may_finish_after_its_token_expired(
    url: str, issuer: Issuer
) -> None:
    expire = partial(issuer.advance_time, LIFETIME)
    with meanwhile(expire, pause_for_many_checks, release.set):
        response = httpx.get(f"{url}/predict", headers=authorization(issuer.token()))
    assert (response.status_code, response.json()) == (200, "42")


def test_requests_finish_if_the_app_wants_it(patient_url: str, issuer: Issuer) -> None:
    token = issuer.token()
    with meanwhile(lambda: issuer.revoke(token), pause_for_many_checks, release.set):
        response = httpx.get(f"{patient_url}/predict", headers=authorization(token))
    assert (response.status_code, response.json()) == (200, "42")


async def test_a_background_task_goes_on_after_its_response(url: str, issuer: Issuer) -> None:
    token = issuer.token()
    async with httpx.AsyncClient() as client:
        response = await client.get(f"{url}/background", headers=authorization(token))
    assert response.json() == "42"
    issuer.revoke(token)
    pause_for_many_checks()  # which find nothing to end
    release.set()
    await until(lambda: "background" in ended)


async def test_an_outage_ends_nothing(url: str, issuer: Issuer) -> None:
    with open_socket(url, "/echo", issuer.token()) as socket, issuer.outage():
        await until(lambda: not guard.is_ready)
        socket.send("still here")
        assert socket.recv() == "still here"


def has_exchanged(issuer: Issuer, number: int) -> bool:
    return issuer.asked["/token"] == number and not guard._keys._exchanges


def test_a_websocket_that_began_with_a_key_goes_on_with_its_next_tokens(
    url: str, issuer: Issuer
) -> None:
    key = issuer.api_key("predict")
    with open_socket(url, "/echo", key) as socket:
        for number in (2, 3, 4):
            issuer.advance_time(timedelta(minutes=49))  # in the last fifth
            assert comes_true(partial(has_exchanged, issuer, number))
            pause_for_many_checks()  # which find the new token
        issuer.revoke_key()
        issuer.change_api_key(key, scopes=["predict", "train"])
        issuer.rotate_api_key(key, overlap=timedelta(minutes=10))
        pause_for_many_checks()
        socket.send("still here")
        assert socket.recv(timeout=5) == "still here"
        issuer.advance_time(timedelta(minutes=11))
        assert closing_of(socket)[0] == 1008


@pytest.mark.parametrize("change", ["revoked", "without a scope", "in another network"])
def test_it_ends_when_the_key_is_narrowed(url: str, issuer: Issuer, change: str) -> None:
    key = issuer.api_key("predict", "train")
    with open_socket(url, "/echo", key) as socket:
        match change:
            case "revoked":
                issuer.revoke(key)
            case "without a scope":
                issuer.change_api_key(key, scopes=["predict"])
            case _:
                issuer.change_api_key(key, networks=["192.0.2.0/24"])
        code, reason = closing_of(socket)
    assert code == 1008
    lost = "has lost a scope" if change == "without a scope" else "is no longer valid"
    assert reason == f"The API key {lost}"


async def test_an_outage_does_not_end_it_before_its_token_expires(url: str, issuer: Issuer) -> None:
    with open_socket(url, "/echo", issuer.api_key()) as socket:
        issuer.advance_time(timedelta(minutes=40))
        with issuer.outage(timedelta(minutes=15)):
            await until(lambda: not guard.is_ready)
            pause_for_many_checks()
            socket.send("still here")
            assert socket.recv(timeout=5) == "still here"
            issuer.clock.advance(timedelta(minutes=6))
            assert closing_of(socket) == (1008, "The token has expired")


class Driven:
    """An app behind the middleware, without a server."""

    def __init__(self, issuer: Issuer, app: Any, kind: str = "http") -> None:
        self.sent: list[Any] = []
        self.answer: Callable[[Any], Awaitable[None]] = self._note
        self.token = issuer.token()
        headers = [(b"authorization", f"Bearer {self.token}".encode())]
        scope = {"type": kind, "path": "/", "method": "GET", "headers": headers}
        middleware = guard.middleware(app)
        self.task = asyncio.create_task(middleware(scope, asyncio.Queue[Any]().get, self._send))

    async def _send(self, message: Any) -> None:
        await self.answer(message)

    async def _note(self, message: Any) -> None:
        self.sent.append(message)


async def begin_and_wait(_scope: Any, _receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await asyncio.Event().wait()


async def test_a_server_that_cancels_a_request_is_obeyed(issuer: Issuer) -> None:
    driven = Driven(issuer, begin_and_wait)
    await until(lambda: bool(driven.sent))
    driven.task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await driven.task


async def test_an_app_that_ignores_the_end_cannot_send(issuer: Issuer) -> None:
    async def stubborn(_scope: Any, _receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        with suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        await send({"type": "http.response.body", "body": b"secret"})

    driven = Driven(issuer, stubborn)
    await until(lambda: bool(driven.sent))
    issuer.revoke(driven.token)
    await driven.task
    assert driven.task.cancelling() == 0  # a task group around it is not cancelled
    assert [message.get("body") for message in driven.sent] == [None, b""]


async def test_an_apps_own_error_passes_through(issuer: Issuer) -> None:
    async def broken(_scope: Any, _receive: Any, _send: Any) -> None:
        raise LookupError

    with pytest.raises(LookupError):
        await Driven(issuer, broken).task


async def test_a_client_that_does_not_read_cannot_keep_the_app_alive(
    issuer: Issuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(open_requests, "LAST_SEND_SECONDS", 0.05)
    driven = Driven(issuer, begin_and_wait)
    await until(lambda: bool(driven.sent))

    async def block(_: Any) -> None:
        await asyncio.Event().wait()

    driven.answer = block
    issuer.revoke(driven.token)
    await driven.task
