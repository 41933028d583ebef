"""The limits of the server of /metrics."""

import asyncio
import socket
from collections.abc import AsyncIterator
from typing import Any
from unittest.mock import Mock

import pytest

from app.errors import StartupError
from app.monitoring.metrics import server
from app.monitoring.metrics.server import (
    MAX_CONNECTIONS,
    MAX_HEAD_BYTES,
    MetricsServer,
    serve_metrics,
)
from tests.support.processes import free_port
from tests.support.settings import make_settings

SECONDS = 10  # more than any answer takes


class Figures:
    def __init__(self) -> None:
        self.scrapes = 0

    def render(self) -> bytes:
        self.scrapes += 1
        return b"figures 1\n"


@pytest.fixture
def figures() -> Figures:
    return Figures()


@pytest.fixture
async def port(figures: Figures) -> AsyncIterator[int]:
    listener = socket.create_server(("127.0.0.1", 0))
    serving = asyncio.create_task(MetricsServer(figures.render)._serve([listener]))
    yield listener.getsockname()[1]
    serving.cancel()
    await asyncio.wait([serving])  # closes the listener


async def answer(port: int, request: bytes) -> bytes:
    """Everything that the server sends until it closes the connection."""
    async with asyncio.timeout(SECONDS):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            writer.write(request)
            return await reader.read()
        except ConnectionResetError:
            return b""
        finally:
            writer.close()


async def test_a_scrape_closes_the_connection(port: int) -> None:
    found = await answer(port, b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
    head, _, body = found.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"\r\nConnection: close" in head
    assert b"\r\nContent-Length: 10\r\n" in head
    assert body == b"figures 1\n"


@pytest.mark.parametrize(
    "line",
    [
        b"GET / HTTP/1.1",
        b"GET /metrics/ HTTP/1.1",
        b"GET /metrics2 HTTP/1.1",
        b"POST /metrics HTTP/1.1",
        b"HEAD /metrics HTTP/1.1",
        b"GET  /metrics HTTP/1.1",
        b"GET http://127.0.0.1/metrics HTTP/1.1",
        b"\x00\xff",
        b"",
    ],
)
async def test_everything_else_is_not_found(port: int, line: bytes, figures: Figures) -> None:
    assert (await answer(port, line + b"\r\n\r\n")).startswith(b"HTTP/1.1 404 Not Found\r\n")
    assert figures.scrapes == 0


async def test_a_query_is_ignored(port: int) -> None:
    found = await answer(port, b"GET /metrics?name[]=up HTTP/1.1\r\n\r\n")
    assert found.startswith(b"HTTP/1.1 200 OK\r\n")


@pytest.mark.parametrize("ending", [b"", b"\r\n\r\n"])
async def test_a_long_head_gets_no_answer(port: int, ending: bytes) -> None:
    head = b"GET /metrics HTTP/1.1\r\nX: " + b"x" * 2 * MAX_HEAD_BYTES + ending
    assert await answer(port, head) == b""


async def test_a_slow_client_gets_no_answer(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "TIMEOUT_SECONDS", 0.05)
    assert await answer(port, b"GET /metrics HTTP/1.1\r\n") == b""


async def test_connections_beyond_the_limit_are_closed_at_once(port: int) -> None:
    open_ones = [await asyncio.open_connection("127.0.0.1", port) for _ in range(MAX_CONNECTIONS)]
    assert await answer(port, b"GET /metrics HTTP/1.1\r\n\r\n") == b""
    _, first = open_ones[0]
    first.close()
    answered = b""
    async with asyncio.timeout(SECONDS):
        while not answered:  # until the server has noticed
            answered = await answer(port, b"GET /metrics HTTP/1.1\r\n\r\n")
    for _, writer in open_ones:
        writer.close()


async def test_scrapes_at_once_are_rendered_once(port: int, figures: Figures) -> None:
    request = b"GET /metrics HTTP/1.1\r\n\r\n"
    answers = await asyncio.gather(*(answer(port, request) for _ in range(10)))
    assert len(set(answers)) == 1
    assert figures.scrapes == 1


async def test_an_error_is_logged_and_answered_without_its_text(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fail() -> Any:
        raise ValueError("a secret")

    failing = MetricsServer(fail)
    assert failing._respond(b"GET /metrics HTTP/1.1\r\n\r\n").startswith(b"HTTP/1.1 500 ")
    assert b"secret" not in failing._respond(b"GET /metrics HTTP/1.1\r\n\r\n")
    assert "Cannot render the metrics" in caplog.messages


def test_an_address_in_use_is_an_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        settings = make_settings("sqlite:///x.db", metrics_port=port)
        text = f"Cannot serve the metrics on 127.0.0.1:{port}: Address already in use"
        with pytest.raises(StartupError, match=text):
            serve_metrics(settings)


@pytest.mark.parametrize(("host", "warns"), [("0.0.0.0", True), ("127.0.0.1", False)])
def test_a_public_address_is_a_warning(
    host: str, warns: bool, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    thread = Mock()
    monkeypatch.setattr(server, "Thread", thread)
    settings = make_settings("sqlite:///x.db", metrics_host=host, metrics_port=free_port())
    serve_metrics(settings)
    warning = f"METRICS_HOST is {host}: everybody who reaches it can read the metrics"
    assert (warning in caplog.messages) == warns
    [listeners] = thread.call_args.kwargs["args"]
    for listener in listeners:
        listener.close()
