"""HEAD works wherever GET does, with the same status and headers, and without a body."""

import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from httpx import AsyncClient

from app.main import create_app
from app.server.protocol import HttpProtocol
from tests.support.markers import on_sqlite
from tests.support.raw_http import connected, read_all, request
from tests.support.servers import served
from tests.support.settings import ARTHUR_ADMINISTERS, make_settings
from tests.support.users import ARTHUR, bearer

CHANGING = {"date", "x-request-id", "transfer-encoding"}


@pytest.fixture(scope="module")
def base_url(sqlite_template: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    database = shutil.copy(sqlite_template, tmp_path_factory.mktemp("head"))
    settings = make_settings(f"sqlite:///{database}", **ARTHUR_ADMINISTERS)
    with served(create_app(settings), http=HttpProtocol, proxy_headers=False) as base_url:
        yield base_url


def readable_paths(client: httpx.Client) -> list[str]:
    """Of every GET, with ids that exist."""
    document = client.get("/openapi.json").json()
    paths = [path for path, operations in document["paths"].items() if "get" in operations]
    return [path.replace("{user_id}", "1") for path in paths]


def test_head_has_the_status_and_the_headers_of_get(
    base_url: str, subtests: pytest.Subtests
) -> None:
    with httpx.Client(base_url=base_url) as client:
        token = client.post("/token", json=ARTHUR).json()["token"]
        paths = [
            *(path.replace("{token}", token) for path in readable_paths(client)),
            *("/", "/docs", "/openapi.json", "/docs/assets/docs.js", "/verify/below"),
            *("/token_status/invalid", "/users/2", "/audit?limit=0", "/unknown", "/token"),
        ]
        assert len(paths) > 20
        for path in paths:
            with subtests.test(path):
                read = client.get(path, headers=bearer(token))
                head = client.head(path, headers=bearer(token))
                assert head.status_code == read.status_code
                assert head.content == b""
                assert {n: v for n, v in head.headers.items() if n not in CHANGING} == {
                    n: v for n, v in read.headers.items() if n not in CHANGING
                }


def test_no_content_follows_on_the_connection(base_url: str) -> None:
    """A client would take it for the next response."""
    with connected(base_url) as connection:
        connection.sendall(request("HEAD /healthz") + request("HEAD /me", "Connection: close"))
        received = read_all(connection)
    heads = received.split(b"\r\n\r\n")
    assert [head.split(b" ")[1] for head in heads[:-1]] == [b"200", b"401"]
    assert heads[-1] == b""


@on_sqlite
async def test_another_server_gets_no_content_either(client: AsyncClient) -> None:
    """Not every ASGI server drops it."""
    token = (await client.post("/token", json=ARTHUR)).json()["token"]
    for path in ("/healthz", "/docs", "/unknown", f"/token_status/{token}", "/verify"):
        assert (await client.head(path, headers=bearer(token))).content == b""


def test_white_space_around_a_header_value_is_not_part_of_it(base_url: str) -> None:
    with httpx.Client(base_url=base_url) as client:
        token = client.post("/token", json=ARTHUR).json()["token"]
    for spaces in (" ", "\t", " \t  "):
        for path in ("/verify", "/me"):
            with connected(base_url) as connection:
                assert status(
                    connection,
                    *(f"GET {path}", f"Authorization:{spaces}Bearer {token}{spaces}"),
                    f"X-Request-Id:{spaces}camelot{spaces}",
                ) == (200, True)


def status(connection: socket.socket, line: str, *headers: str) -> tuple[int, bool]:
    """The status, and whether the service used the client's request id."""
    connection.sendall(request(line, *headers, "Connection: close"))
    received = read_all(connection)
    return int(received.split()[1]), b"x-request-id: camelot\r\n" in received
