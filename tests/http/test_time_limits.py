"""How long a client may take for each part of a request, and for its answers."""

import select
import socket
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from app.server.connections import TimeLimits
from tests.support.limited_service import JSON, limited_service, wait_for
from tests.support.raw_http import connected, parse_answers, read_answers, request, send_all

SHORT = TimeLimits(first_head=1, head=1, body=1, idle=1, stalled=1, closing=1)


@pytest.fixture
def run(sqlite_template: Path, tmp_path: Path) -> Callable[..., Any]:
    return partial(limited_service, sqlite_template, tmp_path, SHORT)


def answer_while_sending(connections: dict[str, socket.socket], byte: bytes) -> dict[str, bytes]:
    """Send a byte at a time on each connection, until the service has answered or closed all."""
    waiting = {connection: name for name, connection in connections.items()}
    received: dict[str, bytes] = {}
    deadline = time.monotonic() + 20
    while waiting:
        assert time.monotonic() < deadline, f"the service is still listening: {waiting.values()}"
        for connection in select.select(waiting, [], [], 0.1)[0]:
            with suppress(ConnectionError):
                received[waiting[connection]] = b""
                received[waiting[connection]] = connection.recv(65536)
            del waiting[connection]
        for connection in waiting:
            with suppress(ConnectionError):  # closed just now
                connection.sendall(byte)
    return received


POST = ("POST /token", JSON)
SLOW_REQUESTS = {
    "a first head": (b"", b"GET / HTTP/1.1\r\nX: "),
    "a second head": (request("GET /healthz"), b"GET / HTTP/1.1\r\nX: "),
    "a body": (b"", request(*POST, "Content-Length: 10000")),
    "a body in chunks": (b"", request(*POST, "Transfer-Encoding: chunked") + b"1000\r\n"),
    "a trailer": (b"", request(*POST, "Transfer-Encoding: chunked") + b"0\r\nX: "),
    "a body after 100": (request(*POST, "Expect: 100-continue", "Content-Length: 10000"), b"x"),
}


def test_a_request_that_arrives_slowly_is_refused(run: Any, subtests: pytest.Subtests) -> None:
    with run() as service, ExitStack() as stack:
        connections = {}
        for case, (before, start) in SLOW_REQUESTS.items():
            connection = stack.enter_context(connected(service.base_url))
            connections[case] = connection
            if before:
                connection.sendall(before)
                assert connection.recv(65536)[:10] in (b"HTTP/1.1 1", b"HTTP/1.1 2")
            connection.sendall(start)
        received = answer_while_sending(connections, b"x")
        for case, connection in connections.items():
            with subtests.test(case):
                (answer,) = parse_answers(received[case])
                assert answer.status == 408
                assert answer.headers["connection"] == "close"
                assert b'"error":"request_timeout"' in answer.body
                assert connection.recv(100) == b""
        wait_for(lambda: service.open == 0)


def test_the_rest_of_a_body_that_arrives_slowly_after_the_answer_gets_no_second_one(
    run: Any,
) -> None:
    with run() as service, connected(service.base_url) as connection:
        connection.sendall(request("POST /verify", "Content-Length: 10000"))
        assert parse_answers(connection.recv(65536))[0].status == 401
        assert answer_while_sending({"it": connection}, b"x") == {"it": b""}
        wait_for(lambda: service.open == 0)


def test_connections_without_a_request_are_closed_silently(run: Any) -> None:
    with (
        run() as service,
        connected(service.base_url) as silent,
        connected(service.base_url) as idle,
        connected(service.base_url) as sends_empty_lines,
    ):
        for connection in (idle, sends_empty_lines):
            connection.sendall(request("GET /healthz"))
            assert parse_answers(connection.recv(65536))[0].status == 200
        assert answer_while_sending({"it": sends_empty_lines}, b"\r\n") == {"it": b""}
        assert silent.recv(100) == idle.recv(100) == b""
        wait_for(lambda: service.open == 0)


def test_a_request_in_progress_may_take_longer_than_any_client(run: Any) -> None:
    with run() as service, connected(service.base_url) as connection:
        connection.sendall(request("GET /slow", "Connection: close"))
        wait_for(lambda: service.open == 1 and not service.connections.first_heads.since)
        with connected(service.base_url) as later:
            assert later.recv(100) == b""  # its time is over, and that of the other one was before
        wait_for(lambda: service.open == 1)
        service.go_on.set()
        assert [answer.status for answer in read_answers(connection)] == [200]


@pytest.mark.parametrize("number", [0, 1, 200], ids="{} requests behind it".format)
def test_the_app_is_told_at_once_that_its_client_has_disconnected(run: Any, number: int) -> None:
    with run() as service:
        with connected(service.base_url) as connection:
            heads = service.connections.first_heads.since
            wait_for(lambda: len(heads) == 1)
            (served,) = heads
            connection.sendall(request("GET /slow"))
            wait_for(lambda: not heads)
            connection.sendall(request("GET /verify") * number)
            wait_for(lambda: bool(served.pipeline) == bool(number))
        assert service.hung_up.wait(10)
        wait_for(lambda: service.open == 0)


def test_a_client_that_reads_nothing_of_its_answer_is_disconnected(run: Any) -> None:
    with run() as service, connected(service.base_url) as connection:
        connection.sendall(request("GET /large"))
        wait_for(lambda: service.open == 1)
        wait_for(lambda: service.open == 0)


def test_a_client_that_takes_its_answer_slowly_gets_all_of_it(run: Any) -> None:
    with run() as service, connected(service.base_url) as connection:
        connection.sendall(request("GET /large", "Connection: close"))
        received = 0
        while part := connection.recv(500_000):
            received += len(part)
            time.sleep(0.05)
    assert received > 16_000_000


def test_a_client_that_keeps_sending_after_the_last_answer_is_disconnected(run: Any) -> None:
    with run() as service, connected(service.base_url) as connection:
        send_all(connection, request("POST /token", JSON, body=b"x" * 50_000))
        (answer,) = read_answers(connection)
        assert answer.status == 413
        wait_for(lambda: service.open == 0)  # though the client's side is still open
