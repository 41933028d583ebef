"""An error on one connection, or on one event loop, does not affect the others. The services here
run on asyncio's own event loop, whose transports raise where uvloop's do not."""

import asyncio
import logging
import socket
import struct
import threading
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from uvicorn import Config
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle
from uvicorn.server import ServerState

from app.http.middleware import PreparedResponse
from app.main import create_app
from app.server.connections import Connections, Queue, TimeLimits
from app.server.protocol import HttpProtocol
from tests.support.limited_service import JSON, LimitedService, limited_service, wait_for
from tests.support.raw_http import connected, read_all, read_answers, request
from tests.support.settings import make_settings

LONG = TimeLimits(*[60.0] * 6)
LAST = request("GET /token_status/abc", "Connection: close")


@pytest.fixture
def run(sqlite_template: Path, tmp_path: Path) -> Callable[..., Any]:
    return partial(limited_service, sqlite_template, tmp_path)


class Turn:
    """Blocks the event loop of a service. Afterwards, the loop reads in one turn all that was
    sent meanwhile."""

    def __init__(self, service: LimitedService) -> None:
        self._is_blocked = threading.Event()
        self._go_on = threading.Event()
        self._base_url = service.base_url

        @service.app.get("/block")
        async def block() -> None:
            self._is_blocked.set()
            self._go_on.wait(10)

    def __enter__(self) -> None:
        self._stack = ExitStack()
        blocking = self._stack.enter_context(connected(self._base_url))
        blocking.sendall(request("GET /block"))
        assert self._is_blocked.wait(10)

    def __exit__(self, *_: object) -> None:
        self._go_on.set()
        self._stack.close()


@pytest.mark.parametrize("is_reset", [False, True], ids=["closed", "reset"])
def test_a_client_that_has_disconnected_does_not_cost_others_their_answers(
    run: Any, is_reset: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """The service cannot end its side of a connection that the client has closed (ENOTCONN)."""
    with run(LONG) as service, ExitStack() as stack:
        gone = [stack.enter_context(connected(service.base_url)) for _ in range(3)]
        others = [stack.enter_context(connected(service.base_url)) for _ in range(9)]
        wait_for(lambda: service.open == 12)
        with Turn(service):
            for connection in gone:
                expecting = ("Expect: 100-continue", "Content-Length: 5")
                connection.sendall(request("GET /token_status/abc", *expecting))
                if is_reset:
                    linger = struct.pack("ii", 1, 0)
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                connection.close()
            for connection in others:
                connection.sendall(LAST)
        for connection in others:
            assert [answer.status for answer in read_answers(connection)] == [401]
        wait_for(lambda: service.open == 0)
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


@pytest.mark.parametrize("method", ["try_fast_path", "answer"])
def test_an_unexpected_error_ends_one_connection_only(
    run: Any, method: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    original = getattr(HttpProtocol, method)

    def fail(self: HttpProtocol, cycle: RequestResponseCycle, *arguments: bytes | None) -> Any:
        if cycle.scope["path"] == "/fail":
            raise RuntimeError("secret")
        return original(self, cycle, *arguments)

    monkeypatch.setattr(HttpProtocol, method, fail)
    with run(LONG) as service, ExitStack() as stack:
        failing = stack.enter_context(connected(service.base_url))
        others = [stack.enter_context(connected(service.base_url)) for _ in range(5)]
        wait_for(lambda: service.open == 6)
        with caplog.at_level(logging.ERROR), Turn(service):
            failing.sendall(request("GET /fail"))
            for connection in others:
                connection.sendall(LAST)
        for connection in others:
            assert [answer.status for answer in read_answers(connection)] == [401]
        assert read_all(failing) == b""
        wait_for(lambda: service.open == 0)
    (record,) = [one for one in caplog.records if one.levelno >= logging.ERROR]
    assert record.name == "hourpass.connections"
    assert "secret" not in record.getMessage()  # logs.py prints the type of an exception only


@pytest.mark.parametrize(
    "failing", [["expire"], ["expire", "fail"]], ids=["expire", "expire and fail"]
)
def test_the_sweep_continues_after_an_unexpected_error(
    run: Any, failing: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for method in failing:
        original = getattr(HttpProtocol, method)
        failed: list[HttpProtocol] = []

        def fail_once(self: HttpProtocol, original: Any = original, failed: Any = failed) -> None:
            if not failed:
                failed.append(self)
                raise RuntimeError
            original(self)

        monkeypatch.setattr(HttpProtocol, method, fail_once)
    with run(LONG._replace(first_head=0.3)) as service, ExitStack() as stack:
        silent = [stack.enter_context(connected(service.base_url)) for _ in range(4)]
        closed = silent[1:] if "fail" in failing else silent
        for connection in closed:
            assert read_all(connection) == b""
        with connected(service.base_url) as connection:
            assert read_all(connection) == b""
        wait_for(lambda: service.open == len(silent) - len(closed))


class SilentConnection:
    queue: Queue | None = None
    idle_queue: Queue
    closing_queue: Queue
    network = ""

    def __init__(self) -> None:
        self.is_expired = asyncio.Event()

    def expire(self) -> None:
        self.is_expired.set()

    def evict(self) -> None: ...
    def fail(self) -> None: ...


def test_the_sweep_runs_on_a_second_event_loop() -> None:
    connections = Connections(make_settings("sqlite:///x.db"), TimeLimits(*[0.1] * 6))

    async def join(*, is_waiting: bool) -> None:
        connection = SilentConnection()
        connections.join(connection, "192.0.2.7")
        if is_waiting:
            await asyncio.wait_for(connection.is_expired.wait(), 10)

    asyncio.run(join(is_waiting=False))  # ends before the first sweep
    asyncio.run(join(is_waiting=True))


class RequestMiddleware:
    """Answers every request at once, with the event loop on which it does so."""

    def try_fast_path(self, _: object) -> tuple[PreparedResponse, str]:
        body = str(id(asyncio.get_running_loop())).encode()
        return PreparedResponse(
            "/", None, 200, ((b"content-length", b"%d" % len(body)),), body
        ), "1"


async def readable(loop: asyncio.AbstractEventLoop, connection: socket.socket) -> None:
    arrived = asyncio.Event()
    loop.add_reader(connection, arrived.set)
    await arrived.wait()
    loop.remove_reader(connection)


def test_two_servers_in_one_process_answer_their_own_requests() -> None:
    app = create_app(make_settings("sqlite:///x.db"))
    app.state.middleware = RequestMiddleware()
    config = Config(app, log_config=None, lifespan="off", proxy_headers=False)
    config.load()
    asked = request("GET /", "Connection: close")
    with ExitStack() as stack:

        def connect(loop: asyncio.AbstractEventLoop) -> tuple[HttpProtocol, socket.socket]:
            stack.callback(loop.close)
            here, there = socket.socketpair()
            stack.enter_context(there).settimeout(10)
            create = partial(HttpProtocol, config, ServerState(), {}, loop)
            _, protocol = loop.run_until_complete(loop.connect_accepted_socket(create, here))
            return protocol, there

        first, second = asyncio.new_event_loop(), asyncio.new_event_loop()
        (protocol, client), (other_protocol, other_client) = connect(first), connect(second)
        protocol.data_received(asked)
        other_protocol.data_received(asked)
        for loop, received_by in ((second, other_client), (first, client)):
            loop.run_until_complete(asyncio.wait_for(readable(loop, received_by), 10))
            (answer,) = read_answers(received_by)
            assert answer.body.decode() == str(id(loop))


def test_a_client_that_has_read_all_answers_gets_no_more_time_to_close(run: Any) -> None:
    """Bytes of an answer that it once read slowly do not count."""
    with run(LONG._replace(closing=1)) as service, connected(service.base_url) as connection:
        connection.sendall(request("GET /large"))
        wait_for(lambda: len(service.connections.stalled.since) == 1)
        length = 16_000_002
        head = connection.recv(65536)
        received = len(head.partition(b"\r\n\r\n")[2])
        while received < length:
            received += len(connection.recv(500_000))
        connection.sendall(request("POST /token", JSON, body=b"x" * 50_000))
        (answer,) = read_answers(connection)
        assert answer.status == 413
        wait_for(lambda: service.open == 0)
