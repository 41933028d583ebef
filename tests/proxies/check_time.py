"""Slow requests through each proxy of examples/. Its time limit is two seconds here instead of ten
minutes, and no other limit is shorter."""

import socket
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from tests.support.model_server import PARTS, PAUSE_SECONDS, Model
from tests.support.proxies import GATEWAYS, ProxiedHourpass, Proxies, connection, head_of_answer
from tests.support.users import GALAHAD, bearer

pytest_plugins = ["tests.support.proxy_fixtures"]

TIMEOUT_SECONDS = 30
WEBSOCKET = (
    "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
)


class Caller:
    def __init__(self, proxy: httpx.Client, kind: str, token: str, model: Model) -> None:
        self._proxy = proxy
        self._kind = kind
        self._token = token
        self._model = model

    def prediction(self) -> httpx.Response:
        """Longer than the limit."""
        return self._proxy.get("/long", headers=bearer(self._token))

    def stream(self) -> int:
        """Parts that arrived. The model sends one when the one before has."""
        path = f"/stream/{self._kind}"
        parts = 0
        with self._proxy.stream("GET", path, headers=bearer(self._token)) as response:
            for line in response.iter_lines():
                if line:
                    parts += 1
                    self._model.received[path].put(b"")
        return parts

    def upload(self) -> httpx.Response:
        """Each part is sent when the one before has reached the model."""
        path = f"/upload/{self._kind}"

        def parts() -> Iterator[bytes]:
            for number in range(PARTS):
                yield str(number).encode()
                self._model.arrived[path].get(timeout=TIMEOUT_SECONDS)
                time.sleep(PAUSE_SECONDS)

        return self._proxy.post(path, content=parts(), headers=bearer(self._token))

    def websocket(self) -> int:
        """Messages that came back."""
        head = f"GET /live HTTP/1.1\r\nHost: model.example\r\n{WEBSOCKET}"
        request = f"{head}Authorization: {self._token}\r\n\r\n"
        with connection(str(self._proxy.base_url), request) as opened:
            assert head_of_answer(opened).startswith("HTTP/1.1 101 ")
            for number in range(PARTS):
                opened.sendall(b"hello\n")
                if opened.recv(6, socket.MSG_WAITALL) != b"hello\n":
                    return number
                time.sleep(PAUSE_SECONDS)
        return PARTS


Outcomes = dict[tuple[str, str], Future[Any]]


@pytest.fixture(scope="module")
def outcomes(hourpass: ProxiedHourpass, model: Model, configured: Proxies) -> Iterator[Outcomes]:
    """All requests run at the same time, because each takes more than two seconds."""
    token = hourpass.token(GALAHAD)
    names = ("prediction", "stream", "upload", "websocket")
    with ThreadPoolExecutor(len(names) * len(GATEWAYS)) as pool:
        callers = {kind: Caller(configured(kind), kind, token, model) for kind in GATEWAYS}
        yield {
            (name, kind): pool.submit(getattr(caller, name))
            for kind, caller in callers.items()
            for name in names
        }


def test_a_prediction_that_takes_too_long_is_a_gateway_timeout(
    kind: str, outcomes: Outcomes
) -> None:
    response = outcomes["prediction", kind].result()
    assert response.status_code == 504
    if kind != "traefik":  # which has no errors of its own in JSON
        assert response.headers["Content-Type"] == "application/json"
        assert set(response.json()) == {"message", "error"}


def test_a_stream_lasts_longer_than_the_limit_and_arrives_part_by_part(
    kind: str, outcomes: Outcomes
) -> None:
    assert outcomes["stream", kind].result() == PARTS


def test_an_upload_lasts_longer_than_the_limit_and_arrives_part_by_part(
    kind: str, outcomes: Outcomes
) -> None:
    assert outcomes["upload", kind].result().status_code == 200


def test_a_websocket_lasts_longer_than_the_limit(kind: str, outcomes: Outcomes) -> None:
    assert outcomes["websocket", kind].result() == PARTS
