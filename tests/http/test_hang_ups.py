"""A client that hangs up is a 499 in the request log, and nothing else."""

import logging
import socket
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.types import Message, Scope

from app.http.access_log import LoggedRequest, request_log
from app.http.middleware import PreparedResponse, RequestMiddleware
from app.server.connections import TimeLimits
from tests.support.limited_service import JSON, limited_service, wait_for
from tests.support.raw_http import connected, request

LONG = TimeLimits(*[60.0] * 6)
FORM = "Content-Type: application/x-www-form-urlencoded"
LENGTH = "Content-Length: 50"
CHUNKED = "Transfer-Encoding: chunked"


@pytest.fixture
def run(sqlite_template: Path, tmp_path: Path) -> Callable[..., Any]:
    return partial(limited_service, sqlite_template, tmp_path)


@pytest.fixture
def logged(monkeypatch: pytest.MonkeyPatch) -> list[LoggedRequest]:
    logged: list[LoggedRequest] = []
    monkeypatch.setattr(request_log, "write", logged.append)
    return logged


def test_a_client_that_hangs_up_is_only_a_line_in_the_request_log(
    run: Any, logged: list[LoggedRequest], caplog: pytest.LogCaptureFixture
) -> None:
    with run(LONG) as service:
        caplog.clear()
        cursor = httpx.get(f"{service.base_url}/revocations").json()["cursor"]
        beginnings = {
            "a JSON body": request("POST /register-user", JSON, LENGTH) + b'{"user',
            "no body yet": request("POST /register-user", JSON, LENGTH),
            "a chunked body": request("POST /register-user", JSON, CHUNKED) + b'6\r\n{"user',
            "a form": request("POST /token", FORM, LENGTH) + b"grant_type=pass",
            "a JSON body of two kinds": request("POST /token", JSON, LENGTH) + b'{"user',
            "before the response": request("GET /slow"),
            "after HEAD": request("HEAD /slow"),
            "long polling": request(f"GET /revocations?wait=20&after={cursor}"),
        }
        for name, sent in beginnings.items():
            for how in (socket.SHUT_WR, socket.SHUT_RDWR):
                logged.clear()
                with connected(service.base_url) as connection:
                    connection.sendall(sent)
                    wait_for(lambda: service.connections.first_heads.since == {})
                    connection.shutdown(how)
                    wait_for(lambda: bool(logged))
                wait_for(lambda: service.open == 0)
                assert [line.status for line in logged] == [499], name
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


SCOPE = {
    "type": "http",
    "method": "GET",
    "path": "/x",
    "raw_path": b"/x",
    "query_string": b"",
    "headers": [],
}


@pytest.mark.parametrize("is_prepared", [True, False], ids=["fast path", "route"])
@pytest.mark.parametrize(
    "error",
    [
        ConnectionResetError(),
        RuntimeError("unable to perform operation on <TCPTransport>; the handler is closed"),
    ],
    ids=["OSError", "uvloop's RuntimeError"],
)
async def test_a_failed_send_is_a_client_that_hung_up(
    error: Exception,
    is_prepared: bool,
    logged: list[LoggedRequest],
    caplog: pytest.LogCaptureFixture,
) -> None:
    prepared = PreparedResponse("/x", None, 200, (), b"")

    async def respond(_scope: Scope, _receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})

    async def send(_message: Message) -> None:
        raise error

    middleware = RequestMiddleware(respond, lambda _: prepared if is_prepared else None, ("/x",))
    await middleware(dict(SCOPE), send, send)  # type: ignore[arg-type] # nothing is received
    assert [line.status for line in logged] == [499]
    assert caplog.records == []


async def test_an_error_of_the_app_is_logged_although_the_client_hung_up(
    logged: list[LoggedRequest], caplog: pytest.LogCaptureFixture
) -> None:
    async def fail(_scope: Scope, _receive: Any, _send: Any) -> None:
        raise ValueError

    async def send(_message: Message) -> None:
        raise ConnectionResetError

    middleware = RequestMiddleware(fail, lambda _: None, ())
    await middleware(dict(SCOPE), send, send)  # type: ignore[arg-type] # never receives
    assert caplog.messages == ["Unexpected error"]
    assert [line.status for line in logged] == [499]


async def test_another_error_of_a_send_is_unexpected(
    logged: list[LoggedRequest], caplog: pytest.LogCaptureFixture
) -> None:
    async def respond(_scope: Scope, _receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})

    async def send(message: Message) -> None:
        if message.get("status") == 200:
            raise RuntimeError("Response content longer than Content-Length")

    middleware = RequestMiddleware(respond, lambda _: None, ())
    await middleware(dict(SCOPE), send, send)  # type: ignore[arg-type] # never receives
    assert caplog.messages == ["Unexpected error"]
    assert [line.status for line in logged] == [200]
