"""What arrives after a request's head: chunk extensions, trailers, unread bodies, the next
requests. Each has a limit, and none is mistaken for another."""

import json
import select
import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from itertools import repeat
from pathlib import Path

import httpx
import pytest

from tests.support.plain_proxies import plain_proxy
from tests.support.raw_http import (
    chunked,
    connected,
    parse_answers,
    read_answers,
    request,
    send_all,
)
from tests.support.service_process import serving
from tests.support.started_service import Service, forked
from tests.support.users import LANCELOT

JSON = "Content-Type: application/json"
LOGIN = json.dumps(LANCELOT).encode()
LAST = request("GET /healthz", "Connection: close")
MEBIBYTE = 2**20


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    directory = tmp_path_factory.mktemp("after-the-head")
    url = f"sqlite:///{directory}/hourpass.db"
    with forked(directory, "serve", DATABASE_URL=url, LOG_LEVEL="warning") as service:
        service.wait_until_ready()
        httpx.post(f"{service.base_url}/register-user", json=LANCELOT)
        yield service
        assert "Traceback" not in service.everything_written()


@pytest.fixture(scope="module")
def bearer(service: Service) -> str:
    answer = httpx.post(f"{service.base_url}/token", json=LANCELOT)
    return f"Authorization: Bearer {answer.json()['token']}"


def memory_of(service: Service) -> int:
    """Bytes."""
    command = ["ps", "-o", "rss=", "-p", str(service.process.pid)]
    return 1024 * int(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)


@pytest.mark.parametrize("step", [2**30, 1], ids=["one segment", "byte by byte"])
def test_trailer_fields_are_no_header_fields(service: Service, bearer: str, step: int) -> None:
    trailers = f"{bearer}\r\nX-Forwarded-For: 6.6.6.6\r\nContent-Type: text/plain\r\n".encode()
    asked = [
        chunked("POST /verify", body=b"x", trailers=trailers),
        chunked("POST /me/password", body=b"{}", trailers=trailers),
        chunked("POST /token", JSON, body=LOGIN, trailers=trailers),
        request("GET /verify"),  # nor are they header fields of the next request
        request("GET /verify", bearer),
    ]
    with connected(service.base_url) as connection:
        send_all(connection, b"".join(asked) + LAST, step)
        answers = read_answers(connection)
    assert [answer.status for answer in answers] == [401, 401, 200, 401, 200, 200]


@pytest.mark.parametrize(
    ("trailers", "statuses"),
    [
        pytest.param(b"Connection: close\r\n", [401], id="close"),
        pytest.param(b"Connection: upgrade\r\nUpgrade: h2c\r\n", [401, 200], id="upgrade"),
        pytest.param(b"Expect: 100-continue\r\n", [401, 200], id="expect"),
        pytest.param(b"Content-Length: 5\r\n", [400], id="length"),
        pytest.param(b"Transfer-Encoding: chunked\r\n", [400], id="encoding"),
    ],
)
def test_trailer_fields_do_not_change_where_a_message_ends(
    service: Service, trailers: bytes, statuses: list[int]
) -> None:
    with connected(service.base_url) as connection:
        send_all(connection, chunked("POST /verify", body=b"x", trailers=trailers) + LAST)
        answers = read_answers(connection)
    assert [answer.status for answer in answers] == statuses
    assert answers[-1].headers["connection"] == "close"


def test_no_trailer_behind_a_proxy_chooses_the_address_of_the_client(tmp_path: Path) -> None:
    """HAProxy passes trailers on, with the client's own request on the same connection."""
    url = f"sqlite:///{tmp_path}/hourpass.db"
    with serving(url, TRUSTED_PROXIES="127.0.0.1") as base_url:
        httpx.post(f"{base_url}/register-user", json=LANCELOT)
        port = httpx.URL(base_url).port
        assert port
        forged = b"X-Forwarded-For: 6.6.6.6\r\n"
        asked = chunked("POST /token", JSON, "Connection: close", body=LOGIN, trailers=forged)
        for kind in ("haproxy", "caddy"):
            with plain_proxy(kind, tmp_path, port) as proxy_url, connected(proxy_url) as connection:
                send_all(connection, asked)
                token = json.loads(read_answers(connection)[-1].body)["token"]
            headers = {"Authorization": f"Bearer {token}"}
            audit = httpx.get(f"{base_url}/me/audit", headers=headers).json()
            assert {entry["address"] for entry in audit["entries"]}
            assert "6.6.6.6" not in str(audit), kind


CHUNKED = request("POST /token", JSON, "Transfer-Encoding: chunked")


@pytest.mark.parametrize(
    ("start", "more", "status"),
    [
        pytest.param(CHUNKED + b"0\r\n", b"X: y\r\n" * 100, 431, id="trailers"),
        pytest.param(CHUNKED + b"0\r\nX: ", b"y" * 600, 431, id="one trailer's value"),
        pytest.param(CHUNKED + b"0\r\n", b"x" * 600, 431, id="one trailer's name"),
        pytest.param(CHUNKED + b"1;", b"x" * 600, 431, id="one chunk's extension"),
        pytest.param(CHUNKED, b"1;" + b"x" * 600 + b"\r\ny\r\n", 431, id="every chunk's"),
        pytest.param(CHUNKED, b"0" * 600, 431, id="a chunk's size"),
        pytest.param(CHUNKED, b"3e8\r\n" + b"x" * 1000 + b"\r\n", 413, id="a body in chunks"),
        pytest.param(
            request("POST /token", JSON, "Content-Length: 104857600"),
            b"x" * 1000,
            413,
            id="a body of 100 MiB",
        ),
        pytest.param(
            request("POST /verify", "Transfer-Encoding: chunked"),
            b"3e8\r\n" + b"x" * 1000 + b"\r\n",
            401,
            id="an unread body in chunks",
        ),
        pytest.param(
            request("GET /verify", "Connection: close"), LAST, 401, id="requests after the last"
        ),
        pytest.param(
            request("POST /token", JSON, "Expect: 100-continue", "Content-Length: 104857600"),
            b"x" * 1000,
            413,
            id="a body that was not asked for",
        ),
    ],
)
def test_a_body_of_100_mib_gets_one_answer_and_is_neither_kept_nor_read_to_the_end(
    service: Service, start: bytes, more: bytes, status: int
) -> None:
    before = memory_of(service)
    sent = 0
    with connected(service.base_url) as connection:
        connection.sendall(start)
        connection.settimeout(1)
        with suppress(OSError):  # the service has stopped reading, or closed
            for piece in repeat(more * (MEBIBYTE // len(more)), 100):
                sent += connection.send(piece)
        connection.settimeout(10)
        (answer,) = read_answers(connection)
        assert answer.status == status
        if status != 401:  # it may be sent before the service knows that the body is too large
            assert answer.headers["connection"] == "close"
    assert sent < 20 * MEBIBYTE
    assert memory_of(service) - before < 20 * MEBIBYTE


def test_a_client_that_sends_too_much_can_still_read_the_answer(
    service: Service,
) -> None:
    """An answer is lost if bytes arrive at a socket that is closed (RFC 9112, 9.6)."""
    with connected(service.base_url) as connection:
        connection.sendall(request("POST /token", JSON, body=b"x" * 200_000))
        assert select.select([connection], [], [], 10)[0]  # the answer is there
        for _ in range(20):
            connection.sendall(b"x" * 1000)
        (answer,) = read_answers(connection)
    assert answer.status == 413


def test_an_unread_body_does_not_disturb_the_next_request(service: Service, bearer: str) -> None:
    with connected(service.base_url) as connection:
        head = request("POST /verify", bearer, "Content-Length: 10000")
        connection.sendall(head)
        first = connection.recv(65536)  # answered before the body is there
        connection.sendall(request("DELETE /me", bearer).ljust(10_000, b"x"))
        connection.sendall(LAST)
        answers = [*parse_answers(first), *read_answers(connection)]
    assert [answer.status for answer in answers] == [200, 200]


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        pytest.param(["Content-Length: 3", "Transfer-Encoding: chunked"], b"0\r\n\r\n", id="both"),
        pytest.param(["Transfer-Encoding: chunked", "Content-Length: 3"], b"0\r\n\r\n", id="both "),
        pytest.param(["Content-Length: 3", "Content-Length: 4"], b"abcd", id="two lengths"),
        pytest.param(["Content-Length: 3", "Content-Length: 3"], b"abc", id="one length twice"),
        pytest.param(["Content-Length: 3, 3"], b"abc", id="a list of lengths"),
        pytest.param(["Content-Length: +3"], b"abc", id="a sign"),
        pytest.param(["Content-Length: 0x3"], b"abc", id="hexadecimal"),
        pytest.param(["Content-Length: -1"], b"abc", id="negative"),
        pytest.param(["Content-Length : 3"], b"abc", id="space before the colon"),
        pytest.param(["Transfer-Encoding: gzip"], b"", id="another coding"),
        pytest.param(["Transfer-Encoding: gzip, chunked"], b"0\r\n\r\n", id="two codings"),
        pytest.param(["Transfer-Encoding: identity"], b"", id="identity"),
        pytest.param(["Transfer-Encoding: xchunked"], b"0\r\n\r\n", id="a coding like it"),
        pytest.param(["Transfer-Encoding:\r\n chunked"], b"0\r\n\r\n", id="folded"),
        pytest.param(["Transfer-Encoding: chunked"] * 2, b"0\r\n\r\n", id="chunked twice"),
        pytest.param(["Transfer-Encoding: chunked"], b"0x3\r\nabc\r\n0\r\n\r\n", id="chunk size"),
        pytest.param(["Transfer-Encoding: chunked"], b"3\nabc\r\n0\r\n\r\n", id="bare line feed"),
    ],
)
def test_ambiguous_lengths_are_refused(service: Service, headers: list[str], body: bytes) -> None:
    with connected(service.base_url) as connection:
        send_all(connection, request("POST /verify", *headers) + body + LAST)
        answers = read_answers(connection)
    assert [answer.status for answer in answers] == [400]


def test_http_1_0_has_no_chunks(service: Service) -> None:
    """RFC 9112, 6.1: the framing of such a message is faulty."""
    asked = request("POST /verify", "Transfer-Encoding: chunked", version="1.0") + b"0\r\n\r\n"
    with connected(service.base_url) as connection:
        send_all(connection, asked + LAST)
        answers = read_answers(connection)
    assert [answer.status for answer in answers] == [400]


@pytest.mark.parametrize(
    "malformed",
    [
        pytest.param(b"\x16\x03\x01\r\n\r\n", id="no HTTP"),
        pytest.param(CHUNKED + b"zz\r\n", id="a malformed chunk"),
        pytest.param(request("DELETE /me", "Content-Length: 1, 2"), id="a malformed head"),
    ],
)
def test_a_malformed_request_is_answered_after_those_before_it(
    service: Service, bearer: str, malformed: bytes
) -> None:
    """Otherwise the client would take its 400 for the answer to the first request."""
    asked = request("GET /me", bearer) + request("GET /verify", bearer) + malformed + LAST
    with connected(service.base_url) as connection:
        send_all(connection, asked)
        answers = read_answers(connection)
    assert [answer.status for answer in answers] == [200, 200, 400]


def test_a_request_whose_body_is_malformed_is_not_carried_out(
    service: Service, bearer: str
) -> None:
    asked = request("POST /me/logout-everywhere", bearer, "Transfer-Encoding: chunked") + b"zz\r\n"
    with connected(service.base_url) as connection:
        send_all(connection, asked)
        assert [answer.status for answer in read_answers(connection)] == [400]
    name, _, value = bearer.partition(": ")
    assert httpx.get(f"{service.base_url}/me", headers={name: value}).status_code == 200


def test_requests_that_wait_behind_a_long_poll_are_not_kept_in_memory(service: Service) -> None:
    """20 connections, each with 200,000 requests."""
    cursor = httpx.get(f"{service.base_url}/revocations").json()["cursor"]
    poll = request(f"GET /revocations?wait=20&after={cursor}")
    before = memory_of(service)
    requests = memoryview(request("GET /verify") * 200_000)
    with ExitStack() as stack:
        rest: dict[socket.socket, memoryview] = {}
        for _ in range(20):
            connection = stack.enter_context(connected(service.base_url))
            connection.sendall(poll)
            connection.setblocking(False)
            rest[connection] = requests
        while ready := select.select([], rest, [], 0.5)[1]:  # until it has stopped reading them all
            for connection in ready:
                sent = connection.send(rest[connection])
                rest[connection] = rest[connection][sent:]
                assert rest[connection]
        assert httpx.get(f"{service.base_url}/healthz").status_code == 200
        assert memory_of(service) - before < 20 * MEBIBYTE


def test_unread_answers_are_not_kept_in_memory(service: Service) -> None:
    before = memory_of(service)
    with ExitStack() as stack:
        for _ in range(10):
            connection = stack.enter_context(connected(service.base_url))
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            connection.settimeout(0.2)
            with suppress(OSError):
                connection.sendall(request("GET /openapi.json") * 20_000)
        assert httpx.get(f"{service.base_url}/healthz").status_code == 200
        assert memory_of(service) - before < 40 * MEBIBYTE
