"""A service and an API on real sockets of this process, so that a test can move their clock."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

import uvicorn

START_TIMEOUT_SECONDS = 20


@contextmanager
def served(app: Any, **options: Any) -> Iterator[str]:
    """The base URL of an ASGI application in a thread of its own."""
    config = uvicorn.Config(app, port=0, log_config=None, loop="asyncio", **options)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    deadline = time.monotonic() + START_TIMEOUT_SECONDS
    try:
        while not server.started:
            assert thread.is_alive(), "the application ended instead of serving"
            assert time.monotonic() < deadline, "the application did not start"
            time.sleep(0.01)
        port = server.servers[0].sockets[0].getsockname()[1]
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join(START_TIMEOUT_SECONDS)


@dataclass
class Received:
    method: str
    path: str
    authorization: str | None
    body: bytes


@dataclass
class Answer:
    status: int
    headers: dict[str, str] = field(default_factory=dict)


FINE = Answer(200)
INVALID_TOKEN = Answer(401, {"WWW-Authenticate": 'Bearer realm="test", error="invalid_token"'})


class Api:
    """Writes down each request and answers as it is told to."""

    def __init__(self, answer: Callable[[Received], Answer]) -> None:
        self.received: list[Received] = []
        api = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def _handle(self) -> None:
                request = Received(
                    self.command, self.path, self.headers["Authorization"], self._body()
                )
                api.received.append(request)
                reply = answer(request)
                self.send_response(reply.status)
                for name, value in {**reply.headers, "Content-Length": "0"}.items():
                    self.send_header(name, value)
                self.end_headers()

            def _body(self) -> bytes:
                if self.headers["Transfer-Encoding"] != "chunked":
                    return self.rfile.read(int(self.headers["Content-Length"] or 0))
                body = b""
                while size := int(self.rfile.readline(), 16):
                    body += self.rfile.read(size)
                    self.rfile.readline()
                self.rfile.readline()
                return body

            do_GET = do_POST = _handle  # noqa: N815 - http.server looks for these names

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name there
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


def always(answer: Answer) -> Callable[[Received], Answer]:
    return lambda _: answer


def refuses_the_first(count: int) -> Callable[[Received], Answer]:
    """An API that calls the first tokens that it sees invalid."""
    refused: list[str | None] = []

    def answer(request: Received) -> Answer:
        if request.authorization not in refused and len(refused) < count:
            refused.append(request.authorization)
        return INVALID_TOKEN if request.authorization in refused else FINE

    return answer
