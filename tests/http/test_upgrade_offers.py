"""The service ignores offers to upgrade (RFC 9110, 7.8): each request has its body and exactly one
answer, directly and behind proxies that pass the offer on."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from app.server.connections import TimeLimits
from tests.support.limited_service import limited_service
from tests.support.plain_proxies import PLAIN_PROXIES, plain_proxy
from tests.support.raw_http import (
    UPGRADE,
    chunked,
    connected,
    read_answers,
    request,
    send_all,
)
from tests.support.users import ARTHUR, GALAHAD, LANCELOT, Person

PEOPLE = (ARTHUR, LANCELOT, GALAHAD)
JSON = "Content-Type: application/json"
LAST = request("GET /healthz", "Connection: close")
LOGIN = json.dumps(LANCELOT).encode()


@pytest.fixture(scope="module")
def base_url(sqlite_template: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    directory = tmp_path_factory.mktemp("upgrade")
    with limited_service(sqlite_template, directory, TimeLimits(), log_level="warning") as service:
        for person in PEOPLE:
            assert httpx.post(f"{service.base_url}/register-user", json=person).status_code == 201
        yield service.base_url


@pytest.mark.parametrize(
    "step",
    [
        pytest.param(2**30, id="one segment"),
        pytest.param(1, id="byte by byte"),
        pytest.param(100, id="segments of 100 bytes"),
    ],
)
@pytest.mark.parametrize(
    ("requests", "statuses"),
    [
        pytest.param(request("POST /token", JSON, *UPGRADE, body=LOGIN), [200], id="length"),
        pytest.param(chunked("POST /token", JSON, *UPGRADE, body=LOGIN), [200], id="chunked"),
        pytest.param(request("GET /verify", *UPGRADE), [401], id="no body"),
        pytest.param(
            request("POST /token", JSON, "Connection: upgrade", "Upgrade: tea", body=LOGIN),
            [200],
            id="to something unheard of",
        ),
        pytest.param(
            request("GET /verify", "Connection: upgrade", "Upgrade: websocket"), [401], id="ws"
        ),
        pytest.param(
            request("GET /me", *UPGRADE)
            + chunked("POST /token", JSON, *UPGRADE, body=LOGIN, trailers=b"X: y\r\n")
            + request("POST /token", JSON, body=LOGIN)
            + request("POST /token", JSON, *UPGRADE, body=LOGIN)
            + request("GET /verify", *UPGRADE) * 3,
            [401, 200, 200, 200, 401, 401, 401],
            id="pipelined",
        ),
        pytest.param(
            request("POST /token", JSON, *UPGRADE, "Expect: 100-continue", body=LOGIN),
            [200],
            id="with Expect",
        ),
        pytest.param(
            request("POST /verify", *UPGRADE, body=request("DELETE /me")),
            [401],
            id="a body that looks like a request",
        ),
    ],
)
def test_an_offer_is_ignored_and_the_connection_stays_in_order(
    base_url: str, requests: bytes, statuses: list[int], step: int
) -> None:
    with connected(base_url) as connection:
        send_all(connection, requests + LAST, step)
        answers = read_answers(connection)
    assert [answer.status for answer in answers] == [*statuses, 200]
    assert answers[-1].body == b'{"status":"ok"}'


@pytest.mark.parametrize(
    ("requests", "statuses"),
    [
        pytest.param(request("CONNECT hourpass:443") + LAST, [400], id="CONNECT"),
        pytest.param(request("CONNECT /verify") + LAST, [400], id="CONNECT with a path"),
        pytest.param(
            request("POST /token", JSON, *UPGRADE, body=LOGIN, version="1.0") + LAST,
            [200],
            id="HTTP/1.0",
        ),
        pytest.param(
            request("GET /verify", "Connection: close, Upgrade", "Upgrade: h2c") + LAST,
            [401],
            id="close",
        ),
        pytest.param(
            request("POST /token", JSON, *UPGRADE, "Content-Length: 20000") + b"x" * 20_000 + LAST,
            [413],
            id="too large a length",
        ),
        pytest.param(
            chunked("POST /token", JSON, *UPGRADE, body=b"x" * 20_000) + LAST,
            [413],
            id="too large a body in chunks",
        ),
        pytest.param(request("GET /" + "x" * 20_000, *UPGRADE) + LAST, [414], id="too long a path"),
        pytest.param(
            request("GET /", *UPGRADE, "X: " + "y" * 40_000) + LAST, [431], id="too large a head"
        ),
        pytest.param(
            request("DELETE /me", *UPGRADE, "Transfer-Encoding: gzip") + LAST, [400], id="gzip"
        ),
        pytest.param(
            request("POST /token", JSON, *UPGRADE, "Transfer-Encoding: chunked") + b"zz\r\n" + LAST,
            [400],
            id="a malformed chunk",
        ),
    ],
)
def test_a_request_that_closes_the_connection_has_one_answer_and_none_follows_it(
    base_url: str, requests: bytes, statuses: list[int]
) -> None:
    with connected(base_url) as connection:
        send_all(connection, requests)
        answers = read_answers(connection)
    assert [answer.status for answer in answers] == statuses
    assert answers[-1].headers["connection"] == "close"


@pytest.mark.parametrize("kind", PLAIN_PROXIES)
def test_users_that_offer_to_upgrade_behind_a_proxy_get_their_own_answers(
    base_url: str, kind: str, tmp_path: Path
) -> None:
    """As every JDK HttpClient does on plain HTTP. The body is a separate segment."""

    def use(person: Person) -> list[str]:
        wrong = []
        with connected(proxy_url) as connection, connection.makefile("rb") as stream:

            def ask(head: bytes, body: bytes = b"") -> tuple[int, bytes]:
                connection.sendall(head)
                connection.sendall(body)
                return _read(stream)

            body = json.dumps(person).encode()
            length = f"Content-Length: {len(body)}"
            for _ in range(2):
                status, answer = ask(request("POST /token", JSON, *UPGRADE, length), body)
                if status != 200:
                    wrong.append(f"login: {status}")
                    continue
                bearer = f"Authorization: Bearer {json.loads(answer)['token']}"
                status, answer = ask(request("GET /me", bearer, *UPGRADE))
                name = json.loads(answer).get("username")
                if name != person["username"]:
                    wrong.append(f"{person['username']} got {status} {name}")
        return wrong

    port = httpx.URL(base_url).port
    assert port
    with plain_proxy(kind, tmp_path, port) as proxy_url, ThreadPoolExecutor(6) as threads:
        wrong = [line for lines in threads.map(use, PEOPLE * 2) for line in lines]
    assert wrong == []


def _read(stream: "object") -> tuple[int, bytes]:
    readline, read = stream.readline, stream.read  # type: ignore[attr-defined] # a file
    status = int(readline().split()[1])
    headers = {}
    while (line := readline()) != b"\r\n":
        name, _, value = line.decode().partition(":")
        headers[name.lower()] = value.strip()
    if headers.get("transfer-encoding") != "chunked":
        return status, read(int(headers.get("content-length", 0)))
    body = b""
    while size := int(readline(), 16):
        body += read(size)
        readline()
    readline()
    return status, body
