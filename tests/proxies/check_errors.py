"""Errors that nginx itself returns with the files of examples/model_behind_nginx are JSON too."""

import json
from http.client import HTTPResponse

import httpx
import pytest

from tests.support.model_server import Model
from tests.support.processes import free_port
from tests.support.proxies import ProxiedHourpass, Proxies, connection, gateway
from tests.support.users import GALAHAD, bearer

pytest_plugins = ["tests.support.proxy_fixtures"]

REQUESTS = {
    "not HTTP": (b"NONSENSE\r\n\r\n", 400),
    "no host": (b"GET / HTTP/1.1\r\n\r\n", 400),
    "malformed length": (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: x\r\n\r\n", 400),
    "NUL in the path": (b"GET /%00 HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    "two tokens": (b"GET / HTTP/1.1\r\nHost: x\r\n%b\r\n" % (b"Authorization: x\r\n" * 2), 400),
    "internal path": (b"GET /_hourpass HTTP/1.1\r\nHost: x\r\n\r\n", 404),
    "path of the errors": (b"GET /_error HTTP/1.1\r\nHost: x\r\n\r\n", 404),
    "unknown method": (b"TRACE / HTTP/1.1\r\nHost: x\r\n\r\n", 405),
    "large body": (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999\r\n\r\n", 413),
    "long path": (b"GET /%b HTTP/1.1\r\nHost: x\r\n\r\n" % (b"x" * 9000), 414),
    "large header": (b"GET / HTTP/1.1\r\nHost: x\r\nX: %b\r\n\r\n" % (b"x" * 9000), 431),
    "unknown encoding": (b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: x\r\n\r\n", 501),
    "unknown version": (b"GET / HTTP/9.9\r\nHost: x\r\n\r\n", 505),
}


@pytest.fixture(scope="module")
def nginx(shipped: Proxies) -> httpx.Client:
    return shipped("nginx")


def assert_is_error(response: httpx.Response, status: int, error: str) -> None:
    assert response.status_code == status
    assert response.headers["Content-Type"] == "application/json"
    body = response.json()
    assert set(body) == {"message", "error"}
    assert body["error"] == error


@pytest.mark.parametrize("name", REQUESTS)
def test_a_request_that_nginx_refuses(nginx: httpx.Client, model: Model, name: str) -> None:
    request, status = REQUESTS[name]
    model.seen.clear()
    with connection(str(nginx.base_url), request.decode()) as asked:
        answer = HTTPResponse(asked)  # not up to the end: nginx still waits for a large body
        answer.begin()
        body = answer.read()
    assert answer.status == status
    assert answer.headers["Content-Type"] == "application/json"
    assert set(json.loads(body)) == {"message", "error"}
    assert model.seen == []


def test_a_model_that_cannot_be_reached(hourpass: ProxiedHourpass) -> None:
    with gateway("nginx", hourpass.port, free_port()) as url:
        response = httpx.get(f"{url}/predict", headers=bearer(hourpass.token(GALAHAD)))
        assert_is_error(response, 502, "bad_gateway")


def test_a_service_that_cannot_be_reached(model: Model) -> None:
    with gateway("nginx", free_port(), model.port) as url:
        response = httpx.get(f"{url}/predict", headers=bearer("token"))
        assert_is_error(response, 503, "temporarily_unavailable")
        assert response.headers["Retry-After"] == "1"


def test_an_error_of_the_model_passes_unchanged(
    nginx: httpx.Client, hourpass: ProxiedHourpass
) -> None:
    for status in (400, 401, 403, 404, 413, 500, 502, 503, 504):
        response = nginx.get(f"/status/{status}", headers=bearer(hourpass.token(GALAHAD)))
        assert (response.status_code, response.json()) == (status, {"prediction": 42})
