"""One connection of the protocol without sockets: a test is the client and the event loop's
transport."""

import asyncio
import os
from types import SimpleNamespace
from typing import Any

import uvicorn
from uvicorn.server import ServerState

from app.server.connections import Connections, TimeLimits
from app.server.protocol import HttpProtocol
from tests.support.raw_http import request
from tests.support.settings import make_settings

LONG = TimeLimits(*[60.0] * 6)
QUICK = request("GET /quick")
SLOW = request("GET /slow")
LAST = request("GET /slow", "Connection: close")
BODY = request("POST /slow", "Content-Length: 10")
NOTHING_TO_READ, _ = os.pipe()


class Transport(asyncio.Transport):
    def __init__(self) -> None:
        super().__init__()
        self.writes: list[bytes] = []
        self.calls: list[str] = []  # that close it, or the side of the service
        self.unsent = 0
        self.reads = True
        self.options: list[tuple[int, ...]] = []
        self.error: OSError | None = None
        self.has_client = True
        self.file = NOTHING_TO_READ

    def fileno(self) -> int:
        return self.file

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self if name == "socket" else default

    def getsockname(self) -> tuple[str, int]:
        return "192.0.2.1", 80

    def getpeername(self) -> tuple[str, int]:
        if not self.has_client:
            raise OSError
        return "192.0.2.7", 1

    def setsockopt(self, *option: int) -> None:
        self.options.append(option)
        if self.error:
            raise self.error

    def write(self, data: Any) -> None:
        self.writes.append(bytes(data))

    def write_eof(self) -> None:
        self.calls.append("eof")
        if self.error:
            raise self.error

    def close(self) -> None:
        self.calls.append("close")

    def abort(self) -> None:
        self.calls.append("abort")

    def is_closing(self) -> bool:
        return "close" in self.calls or "abort" in self.calls

    def pause_reading(self) -> None:
        self.reads = False

    def resume_reading(self) -> None:
        self.reads = True

    def get_write_buffer_size(self) -> int:
        return self.unsent


class App:
    """Answers /quick at once, /slow when a test says so, and the body of /stream."""

    def __init__(self) -> None:
        connections = Connections(make_settings("sqlite:///x.db"), LONG)
        stopping = asyncio.Event()
        self.state = SimpleNamespace(middleware=self, connections=connections, stopping=stopping)
        self.go_on = asyncio.Event()
        self.called = 0
        self.heard: list[str] = []

    def try_fast_path(self, scope: Any) -> Any:
        if scope["path"] != "/quick":
            return None
        return SimpleNamespace(status=200, headers=((b"x-name", b"50%s"),), body=b"quick"), "id"

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.called += 1
        hearing = asyncio.create_task(self._hear(receive))
        start = {"type": "http.response.start", "status": 200, "headers": []}
        if scope["path"] == "/stream":
            await send(start)
        await self.go_on.wait()
        hearing.cancel()
        if scope["path"] != "/stream":
            await send(start)
        await send({"type": "http.response.body", "body": b"slow"})

    async def _hear(self, receive: Any) -> None:
        while self.heard[-1:] != ["http.disconnect"]:
            self.heard.append((await receive())["type"])


class Peer:
    """One connection, with its transport."""

    def __init__(self, app: App, *, has_client: bool = True, error: OSError | None = None) -> None:
        self.app = app
        config = uvicorn.Config(app, log_config=None, ws="none", proxy_headers=False)
        self.server = ServerState()
        self.protocol = HttpProtocol(config, self.server, {}, asyncio.get_running_loop())
        self.transport = Transport()
        self.transport.error = error
        self.transport.has_client = has_client
        self.protocol.connection_made(self.transport)

    @property
    def queue(self) -> str | None:
        queues = vars(self.app.state.connections)
        return next((name for name, each in queues.items() if each is self.protocol.queue), None)

    @property
    def statuses(self) -> list[int]:
        return [int(part[9:12]) for part in self.transport.writes if part.startswith(b"HTTP/1.1 ")]

    async def send(self, data: bytes) -> None:
        self.protocol.data_received(data)
        await turns()

    async def answer(self) -> None:
        self.app.go_on.set()
        await turns()


async def turns() -> None:
    for _ in range(10):
        await asyncio.sleep(0)
