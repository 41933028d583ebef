"""How long a client may take for each part of a request, and for its answers."""

import socket
import time
from collections.abc import Callable
from contextlib import suppress
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


def trickle(connection: socket.socket, start: bytes, byte: bytes = b"x") -> bytes:
    """Send a byte at a time for as long as the service listens; returns what it says."""
    connection.sendall(start)
    connection.settimeout(0.1)
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        with suppress(TimeoutError):
            return connection.recv(65536)
        connection.sendall(byte)
    raise AssertionError("the service is still listening")


def test_a_connection_that_says_nothing_is_closed(run: Any) -> None:
    with run() as service, connected(service.base_url) as connection:
        assert connection.recv(100) == b""
        wait_for(lambda: service.open == 0)


@pytest.mark.parametrize("before", [b"", request("GET /healthz")], ids=["first", "second"])
def test_a_head_that_trickles_in_is_refused(run: Any, before: bytes) -> None:
    with run() as service, connected(service.base_url) as connection:
        if before:
            connection.sendall(before)
            assert parse_answers(connection.recv(65536))[0].status == 200
        (answer,) = parse_answers(trickle(connection, b"GET / HTTP/1.1\r\nX: "))
        assert answer.status == 408
        assert answer.headers["connection"] == "close"
        assert b'"error":"request_timeout"' in answer.body
        assert connection.recv(100) == b""
        wait_for(lambda: service.open == 0)


@pytest.mark.parametrize(
    "head",
    [
        pytest.param(request("POST /token", JSON, "Content-Length: 10000"), id="length"),
        pytest.param(
            request("POST /token", JSON, "Transfer-Encoding: chunked") + b"1000\r\n", id="chunked"
        ),
        pytest.param(
            request("POST /token", JSON, "Transfer-Encoding: chunked") + b"0\r\nX: ", id="trailer"
        ),
        pytest.param(
            request("POST /token", JSON, "Expect: 100-continue", "Content-Length: 10000"),
            id="after 100",
        ),
    ],
)
def test_a_body_that_trickles_in_is_refused(run: Any, head: bytes) -> None:
    with run() as service, connected(service.base_url) as connection:
        received = trickle(connection, head)
        if received.startswith(b"HTTP/1.1 100"):
            received = trickle(connection, b"")
        (answer,) = parse_answers(received)
        assert answer.status == 408
        assert connection.recv(100) == b""
        wait_for(lambda: service.open == 0)


def test_the_rest_of_a_body_that_trickles_in_after_the_answer_gets_no_second_one(run: Any) -> None:
    with run() as service, connected(service.base_url) as connection:
        connection.sendall(request("POST /verify", "Content-Length: 10000"))
        assert parse_answers(connection.recv(65536))[0].status == 401
        assert trickle(connection, b"x") == b""
        wait_for(lambda: service.open == 0)


def test_a_connection_without_a_next_request_is_closed_silently(run: Any) -> None:
    with run() as service, connected(service.base_url) as connection:
        connection.sendall(request("GET /healthz"))
        assert parse_answers(connection.recv(65536))[0].status == 200
        assert connection.recv(100) == b""
        wait_for(lambda: service.open == 0)


def test_empty_lines_do_not_keep_a_connection_open(run: Any) -> None:
    with run() as service, connected(service.base_url) as connection:
        assert trickle(connection, request("GET /healthz"), b"")[:12] == b"HTTP/1.1 200"
        with suppress(ConnectionError):
            assert trickle(connection, b"\r\n", b"\r\n") == b""
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


@pytest.mark.parametrize(
    "behind",
    [b"", request("GET /verify"), request("GET /verify") * 200],
    ids=["nothing", "a request", "many requests"],
)
def test_an_application_hears_at_once_that_its_client_has_gone(run: Any, behind: bytes) -> None:
    with run() as service:
        with connected(service.base_url) as connection:
            heads = service.connections.first_heads.since
            wait_for(lambda: len(heads) == 1)
            (served,) = heads
            connection.sendall(request("GET /slow"))
            wait_for(lambda: not heads)
            connection.sendall(behind)
            wait_for(lambda: bool(served.pipeline) == bool(behind))
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
