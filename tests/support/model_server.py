"""A model server behind a proxy of examples/. It answers all requests and records them."""

import json
import sys
import time
from collections import defaultdict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from queue import SimpleQueue
from threading import Event, Thread
from typing import Any, NamedTuple

PARTS = 7
PAUSE_SECONDS = 0.4
_TIMEOUT_SECONDS = 30


class Seen(NamedTuple):
    """A request as it arrived."""

    method: str
    path: str
    headers: list[tuple[str, str]]
    body_bytes: int

    def values(self, name: str) -> list[str]:
        """The values of all headers that a server could read as this one, as CGI and WSGI do."""
        return [value for given, value in self.headers if _variable(given) == _variable(name)]


def _variable(header: str) -> str:
    return "".join(letter if letter.isalnum() else "_" for letter in header.upper())


class Model:
    """`/long` is a prediction that lasts until the test ends. `/status/404` is an error. Below
    `/stream/` are server-sent events: each is sent after the client has put something into
    `received` for the one before. Below `/upload/` each part of a body is put into `arrived`. Both
    have a queue for each path."""

    def __init__(self) -> None:
        self.seen: list[Seen] = []
        self.received: defaultdict[str, SimpleQueue[bytes]] = defaultdict(SimpleQueue)
        self.arrived: defaultdict[str, SimpleQueue[bytes]] = defaultdict(SimpleQueue)
        self.stopping = Event()
        self._server = _Server(("127.0.0.1", 0), type("Handler", (_Handler,), {"model": self}))
        self._thread = Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()

    @property
    def port(self) -> int:
        return self._server.server_port

    def stop(self) -> None:
        self.stopping.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *arguments: Any) -> None:
        """A proxy may close a connection at any time."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(*arguments)


class _Handler(BaseHTTPRequestHandler):
    model: "Model"
    protocol_version = "HTTP/1.1"
    # Otherwise the body waits until the proxy acknowledges the headers: 0.04 s for each response.
    disable_nagle_algorithm = True

    def answer(self) -> None:
        size = self.read_body()
        self.model.seen.append(Seen(self.command, self.path, self.headers.items(), size))
        if self.headers.get("Upgrade") == "websocket":
            self.echo()
        elif self.path.startswith("/stream/"):
            self.stream()
        else:
            if self.path == "/long":
                self.model.stopping.wait()
            body = json.dumps({"prediction": 42}).encode()
            _, is_error, status = self.path.partition("/status/")
            self.send_response(int(status) if is_error else 200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

    def read_body(self) -> int:
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            return len(self.rfile.read(int(self.headers.get("Content-Length", "0"))))
        total = 0
        while size := int(self.rfile.readline(), 16):
            part = self.rfile.read(size)
            self.rfile.readline()
            total += len(part)
            if self.path.startswith("/upload/"):
                self.model.arrived[self.path].put(part)
        self.rfile.readline()
        return total

    def stream(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        for number in range(PARTS):
            self.wfile.write(f"data: {number}\n\n".encode())
            self.model.received[self.path].get(timeout=_TIMEOUT_SECONDS)
            time.sleep(PAUSE_SECONDS)
        self.close_connection = True

    def echo(self) -> None:
        self.send_response(101)
        self.send_header("Upgrade", "websocket")
        self.send_header("Connection", "Upgrade")
        self.end_headers()
        while line := self.rfile.readline():
            self.wfile.write(line)
        self.close_connection = True

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = do_OPTIONS = answer  # noqa: N815 - http.server calls these

    def log_message(self, *_: object) -> None:
        """Nothing: a test prints only what failed."""
