"""Serves /metrics on a port of its own, in a thread of the supervisor.

It answers nothing but GET /metrics. With one worker there is no supervisor, and the thread is in
the process of that worker.
"""

import asyncio
import logging
import socket
from asyncio import StreamReader, StreamWriter
from collections.abc import Callable
from contextlib import ExitStack
from ipaddress import ip_address
from threading import Thread
from time import monotonic

from app.errors import StartupError
from app.monitoring.metrics.exposition import CONTENT_TYPE, Exposition
from app.monitoring.metrics.samples import Totals
from app.server.listeners import bind
from app.server.reports import Reports
from app.settings import Settings

MAX_HEAD_BYTES = 8_192
MAX_CONNECTIONS = 20
TIMEOUT_SECONDS = 5.0  # from the connection to the end of the answer
# Workers report once a second, so a new text would not say more.
CACHE_SECONDS = 0.5

_log = logging.getLogger("hourpass.metrics")


def serve_metrics(settings: Settings) -> Reports:
    """Start the thread. It lasts as long as the process. Raises StartupError."""
    host, port = settings.metrics_host, settings.metrics_port
    assert port is not None
    shown = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    try:
        sockets = bind(host, port, 1)
    except OSError as error:
        raise StartupError(f"Cannot serve the metrics on {shown}: {error.strerror}") from error
    totals = Totals()
    reports = Reports(totals.retire)
    server = MetricsServer(Exposition(settings, totals, reports).render)
    Thread(target=server.run, args=(sockets,), name="metrics", daemon=True).start()
    _log.info("Metrics on http://%s/metrics", shown)
    if not all(ip_address(listener.getsockname()[0]).is_loopback for listener in sockets):
        _log.warning("METRICS_HOST is %s: everybody who reaches it can read the metrics", host)
    return reports


class MetricsServer:
    def __init__(self, render: Callable[[], bytes]) -> None:
        self._render = render
        self._text = b""
        self._rendered_at = float("-inf")
        self._open = 0

    def run(self, sockets: list[socket.socket]) -> None:
        asyncio.run(self._serve(sockets))

    async def _serve(self, sockets: list[socket.socket]) -> None:
        with ExitStack() as stack:
            for listener in sockets:
                server = await asyncio.start_server(
                    self._handle, sock=listener, limit=MAX_HEAD_BYTES
                )
                stack.callback(server.close)
            await asyncio.get_running_loop().create_future()  # for ever, or until it is cancelled

    async def _handle(self, reader: StreamReader, writer: StreamWriter) -> None:
        if self._open >= MAX_CONNECTIONS:
            writer.transport.abort()
            return
        self._open += 1
        try:
            async with asyncio.timeout(TIMEOUT_SECONDS):
                head = await reader.readuntil(b"\r\n\r\n")
                writer.write(self._respond(head))
                writer.close()
                await writer.wait_closed()
        except (OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass  # neither is worth a line
        finally:
            self._open -= 1
            writer.transport.abort()

    def _respond(self, head: bytes) -> bytes:
        method, _, rest = head.partition(b" ")
        path = rest.partition(b" ")[0].partition(b"?")[0]
        if (method, path) != (b"GET", b"/metrics"):
            return _response("404 Not Found", "text/plain", b"There is only GET /metrics.\n")
        try:
            return _response("200 OK", CONTENT_TYPE, self._current())
        except Exception:  # noqa: BLE001 - logged, and the scraper gets a 500
            _log.exception("Cannot render the metrics")
            return _response("500 Internal Server Error", "text/plain", b"See the log.\n")

    def _current(self) -> bytes:
        if monotonic() >= self._rendered_at + CACHE_SECONDS:
            self._text = self._render()
            self._rendered_at = monotonic()
        return self._text


def _response(status: str, content_type: str, body: bytes) -> bytes:
    head = (
        f"HTTP/1.1 {status}\r\nContent-Type: {content_type}\r\nContent-Length: {len(body)}\r\n"
        "X-Content-Type-Options: nosniff\r\nConnection: close\r\n\r\n"
    )
    return head.encode() + body
