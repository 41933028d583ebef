"""What the service does with bytes: requests without end, many at once, answers without a body."""

import json
import re
import socket
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from app.server.connections import TimeLimits
from tests.support.limited_service import limited_service
from tests.support.raw_http import Answer, connected, read_all, request, send_all
from tests.support.users import LANCELOT

MEGABYTE = 2**20


@pytest.fixture(scope="module")
def base_url(sqlite_template: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """One service for all that follows; SQLite only, because hardly a request reaches it."""
    directory = tmp_path_factory.mktemp("serving")
    with limited_service(sqlite_template, directory, TimeLimits(), log_level="warning") as service:
        yield service.base_url


@pytest.mark.parametrize(
    ("start", "more", "status", "error"),
    [
        pytest.param(b"GET /", b"x", 414, "uri_too_long", id="a path without end"),
        pytest.param(b"GET /?", b"x", 414, "uri_too_long", id="a query without end"),
        pytest.param(
            b"GET / HTTP/1.1\r\n", b"X: y\r\n", 431, "headers_too_large", id="headers without end"
        ),
        pytest.param(
            b"GET / HTTP/1.1\r\nX: ",
            b"y",
            431,
            "headers_too_large",
            id="one header value without end",
        ),
        pytest.param(
            b"GET / HTTP/1.1\r\n", b"x", 431, "headers_too_large", id="one header name without end"
        ),
        pytest.param(b"\x16\x03\x01", b"\x00", 400, "invalid_request", id="no HTTP at all"),
        pytest.param(
            b"GET / HTTP/1.1\r\nHost", b"\x00", 400, "invalid_request", id="half of it HTTP"
        ),
    ],
)
def test_requests_without_end_are_refused_before_their_end(
    base_url: str, start: bytes, more: bytes, status: int, error: str
) -> None:
    with connected(base_url) as connection:
        answer = answer_to(connection, start + more * (MEGABYTE // len(more)))
    head, _, body = answer.partition(b"\r\n\r\n")
    assert int(head.split()[1]) == status
    assert b"content-type: application/json" in head.lower()
    assert b"connection: close" in head.lower()
    assert b"cache-control: no-store" in head
    assert b"x-content-type-options: nosniff" in head
    problem = json.loads(body)
    assert problem["error"] == error
    assert set(problem) == {"message", "error"}


def answer_to(connection: socket.socket, asked: bytes) -> bytes:
    """All that the service sends until it closes the connection."""
    send_all(connection, asked)
    return read_all(connection)


@pytest.fixture(scope="module")
def bearer(base_url: str) -> str:
    """The header of a token that the service remembers."""
    with httpx.Client(base_url=base_url) as client:
        assert client.post("/register-user", json=LANCELOT).status_code == 201
        bearer = f"Authorization: Bearer {client.post('/token', json=LANCELOT).json()['token']}"
    with connected(base_url) as connection:
        for answer in answers(connection, request("GET /verify", bearer) * 2, ["GET"] * 2):
            assert answer.status == 200
    return bearer


def answers(connection: socket.socket, requests: bytes, methods: list[str]) -> Iterator[Answer]:
    """Send all at once, then read one answer for each method."""
    connection.sendall(requests)
    with connection.makefile("rb") as stream:
        for method in methods:
            status = int(stream.readline().split()[1])
            lines = iter(stream.readline, b"\r\n")
            pairs = (line.decode().partition(":") for line in lines)
            headers = {name.lower(): value.strip() for name, _, value in pairs}
            length = 0 if method == "HEAD" else int(headers["content-length"])
            yield Answer(status, headers, stream.read(length))


def test_answers_come_in_the_order_of_the_requests(base_url: str, bearer: str) -> None:
    """/verify is answered from memory, /me and a login are not, all sent before any answer."""
    asked = [
        request("GET /verify", bearer),
        request("GET /me", bearer),
        request("GET /verify"),
        request("GET /verify", bearer),
        request("POST /token", "Content-Type: application/json", body=json.dumps(LANCELOT)),
        request("GET /verify", "Authorization: Bearer x.y.z"),
        request("GET /verify", bearer),
    ]
    with connected(base_url) as connection:
        got = list(answers(connection, b"".join(asked), ["GET"] * len(asked)))
    assert [answer.status for answer in got] == [200, 200, 401, 200, 200, 401, 200]
    members = [sorted(json.loads(answer.body)) for answer in got]
    assert "username" in members[1]
    assert "access_token" in members[4]


def test_a_thousand_pipelined_requests_behind_a_slow_one_are_answered(
    base_url: str, bearer: str
) -> None:
    with connected(base_url) as connection:
        requests = request("GET /me", bearer) + request("GET /verify", bearer) * 1000
        got = list(answers(connection, requests, ["GET"] * 1001))
    assert [answer.status for answer in got] == [200] * 1001


@pytest.mark.parametrize(
    ("line", "body"),
    [
        pytest.param("HEAD /verify", "", id="HEAD"),
        pytest.param("POST /verify/predict", "x" * 1000, id="POST with a body"),
    ],
)
def test_a_cached_answer_does_not_disturb_the_next_request(
    base_url: str, bearer: str, line: str, body: str
) -> None:
    asked = request(line, bearer, body=body) + request("GET /me", bearer)
    with connected(base_url) as connection:
        first, second = answers(connection, asked, [line.split(maxsplit=1)[0], "GET"])
    assert first.status == 200
    assert first.headers["x-auth-username"] == "lancelot"
    assert second.status == 200
    assert json.loads(second.body)["username"] == "lancelot"


@pytest.mark.parametrize(
    ("version", "headers"),
    [
        pytest.param("1.1", ["Connection: close"], id="asked to"),
        pytest.param("1.0", [], id="HTTP/1.0"),
    ],
)
def test_a_cached_answer_closes_the_connection_when_it_should(
    base_url: str, bearer: str, version: str, headers: list[str]
) -> None:
    with connected(base_url) as connection:
        answer = answer_to(connection, request("GET /verify", bearer, *headers, version=version))
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"\r\nconnection: close\r\n" in answer


def test_a_cached_answer_has_the_headers_of_any_other(base_url: str, bearer: str) -> None:
    given = "X-Request-ID: quest-1"
    asked = request("GET /verify", bearer, given) + request("GET /me", bearer, given)
    with connected(base_url) as connection:
        quick, slow = answers(connection, asked, ["GET", "GET"])
    own = {name for name in quick.headers if name.startswith("x-auth-")}
    assert quick.headers.keys() - own == slow.headers.keys()
    assert quick.headers["x-request-id"] == "quest-1"
    assert quick.headers["cache-control"] == slow.headers["cache-control"] == "no-store"


@pytest.mark.parametrize(
    ("version", "hosts", "status"),
    [
        pytest.param("1.1", [], 400, id="HTTP/1.1 without Host"),
        pytest.param("1.1", ["Host: x", "Host: x"], 400, id="HTTP/1.1 with two"),
        pytest.param("1.1", ["hOST:"], 200, id="HTTP/1.1 with an empty one"),
        pytest.param("1.0", [], 200, id="HTTP/1.0 without Host"),
        pytest.param("1.0", ["Host: x"], 200, id="HTTP/1.0 with one"),
        pytest.param("1.0", ["Host: x", "Host: y"], 400, id="HTTP/1.0 with two"),
    ],
)
def test_requests_without_exactly_one_host_are_refused(
    base_url: str, bearer: str, version: str, hosts: list[str], status: int
) -> None:
    """RFC 9112, 3.2. HTTP/1.0 needs none. The Host of an earlier request does not count."""
    head = "\r\n".join([f"GET /verify HTTP/{version}", *hosts, bearer, "", ""]).encode()
    last = request("GET /verify", bearer, "Connection: close")
    with connected(base_url) as connection:
        received = answer_to(connection, request("GET /verify", bearer) + head + last)
    statuses = re.findall(rb"HTTP/1.1 (\d+)", received)
    is_kept = status == 200 and version == "1.1"
    assert [int(found) for found in statuses] == [200, status] + [200] * is_kept
