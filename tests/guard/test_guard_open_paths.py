"""The guard's middleware reads open paths as the files of the proxies do."""

import socket
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest

from hourpass import Guard
from hourpass.testing import Issuer
from tests.support.path_cases import OPEN_PATHS, PATH_CASES
from tests.support.servers import served

guard = Guard("https://hourpass.example")


@pytest.fixture(autouse=True)
def issuer(hourpass_issuer: Issuer) -> Issuer:
    hourpass_issuer.attach(guard)
    return hourpass_issuer


async def app(scope: Any, _receive: Any, send: Any) -> None:
    assert scope["type"] == "http"
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b""})


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with served(guard.middleware(app, public=OPEN_PATHS), lifespan="off") as url:
        yield url


def status_of(url: str, path: str) -> str:
    """The status of a request with this path. HTTP clients would change the path."""
    parts = urlsplit(url)
    with socket.create_connection((parts.hostname, parts.port), timeout=5) as connection:
        request = f"GET {path} HTTP/1.1\r\nHost: model.example\r\nConnection: close\r\n\r\n"
        connection.sendall(request.encode())
        return connection.makefile("rb").readline().decode()[9:12]


def test_an_open_path_needs_no_token_in_its_own_spelling_only(
    url: str, subtests: pytest.Subtests
) -> None:
    for path, is_open in PATH_CASES.items():
        with subtests.test(path):
            assert status_of(url, path) in (("200",) if is_open else ("400", "401"))
