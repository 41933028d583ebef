"""Clients that send requests while the service restarts, and count what becomes of each one.

They repeat nothing. A request is refused if its connection is, and cut if the connection ends
before the whole answer. A connection that ends before the client has sent a request on it, or after
an answer with `Connection: close`, cuts nothing.
"""

import asyncio
import json
from collections import Counter
from collections.abc import Callable, Coroutine
from time import perf_counter
from typing import NamedTuple, Self
from urllib.parse import urlsplit

TIMEOUT_SECONDS = 60
_Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Response(NamedTuple):
    status: int
    is_last: bool
    body: bytes


class SteadyLoad:
    def __init__(self, url: str, token: str) -> None:
        parts = urlsplit(url)
        self._address = (parts.hostname or "", parts.port or 80)
        self._verify = _request("/verify", f"Authorization: Bearer {token}")
        self._tasks: list[asyncio.Task[None]] = []
        self._is_over = False
        self.answered: Counter[tuple[str, int]] = Counter()  # by kind of client and status
        self.failures: Counter[tuple[str, str]] = Counter()  # refused and cut
        self.closed = 0  # connections that the service has closed
        self.longest = 0.0  # seconds to an answer, except those of listeners

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self._is_over = True
        async with asyncio.timeout(TIMEOUT_SECONDS):
            await asyncio.gather(*self._tasks)

    def keep_alive(self, number: int, pause: float) -> None:
        """Clients that use a connection for as long as the service keeps it, and wait so many
        seconds between two requests."""
        self._start(number, lambda: self._use_connections("keep-alive", pause))

    def new_connections(self, number: int, pause: float) -> None:
        """Clients that open a connection for each request."""
        self._start(number, lambda: self._open_connections(pause))

    def listeners(self, number: int) -> None:
        """Guards that wait for revocations."""
        self._start(number, self._listen)

    def _start(self, number: int, client: Callable[[], Coroutine[None, None, None]]) -> None:
        self._tasks += [asyncio.create_task(client()) for _ in range(number)]

    async def _use_connections(self, kind: str, pause: float) -> None:
        streams: _Streams | None = None
        while not self._is_over:
            streams = await self._send_once(kind, self._verify, streams)
            await asyncio.sleep(pause)
        _close(streams)

    async def _open_connections(self, pause: float) -> None:
        while not self._is_over:
            _close(await self._send_once("new connection", self._verify, None))
            await asyncio.sleep(pause)

    async def _listen(self) -> None:
        cursor = ""
        streams: _Streams | None = None
        while not self._is_over:
            wait = f"?wait=3&after={cursor}" if cursor else ""
            bodies: list[bytes] = []
            request = _request(f"/revocations{wait}")
            streams = await self._send_once("listener", request, streams, bodies.append)
            for body in bodies:
                cursor = json.loads(body).get("cursor", "")
        _close(streams)

    async def _send_once(
        self,
        kind: str,
        request: bytes,
        streams: _Streams | None,
        use: Callable[[bytes], None] = lambda _: None,
    ) -> _Streams | None:
        """Returns the connection, if it can be used again."""
        started = perf_counter()
        if streams and (streams[0].at_eof() or streams[0].exception()):
            self.closed += 1
            _close(streams)
            streams = None
        try:
            async with asyncio.timeout(TIMEOUT_SECONDS):
                streams = streams or await asyncio.open_connection(*self._address)
                streams[1].write(request)
                response = await _read(streams[0])
        except ConnectionRefusedError:
            self.failures[kind, "refused"] += 1
            await asyncio.sleep(0.05)
            return None
        except (OSError, asyncio.IncompleteReadError) as error:
            self.failures[kind, f"cut ({type(error).__name__})"] += 1
            _close(streams)
            return None
        if kind != "listener":
            self.longest = max(self.longest, perf_counter() - started)
        self.answered[kind, response.status] += 1
        use(response.body)
        if response.is_last:
            self.closed += 1
            _close(streams)
            return None
        return streams


async def _read(reader: asyncio.StreamReader) -> Response:
    head = (await reader.readuntil(b"\r\n\r\n")).decode().lower().split("\r\n")
    fields = dict(line.split(": ", 1) for line in head[1:] if line)
    body = await reader.readexactly(int(fields["content-length"]))
    return Response(int(head[0].split()[1]), fields.get("connection") == "close", body)


def _request(target: str, *headers: str) -> bytes:
    return "\r\n".join([f"GET {target} HTTP/1.1", "Host: x", *headers, "", ""]).encode()


def _close(streams: _Streams | None) -> None:
    if streams:
        streams[1].close()
