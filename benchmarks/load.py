"""A load generator that uses little CPU time, so that the measured limit is that of the server.

It speaks only the HTTP/1.1 that it needs: one request at a time on a connection, and responses with
a Content-Length.
"""

import asyncio
import gc
import re
from array import array
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count, cycle, islice
from math import inf
from time import perf_counter, process_time

import uvloop

CONNECTIONS = 16

_LENGTH = re.compile(rb"(?i)\r\ncontent-length: *(\d+)")


@dataclass(frozen=True)
class Load:
    """Requests to send in turn, over and over, until `count` or `seconds` is reached. Open requests
    are then completed and counted."""

    port: int
    requests: Sequence[bytes]
    connections: int = CONNECTIONS
    seconds: float = inf
    count: int | None = None
    per_second: float | None = None  # at this pace, however slow the answers; else one upon another


@dataclass(frozen=True)
class Result:
    seconds: float
    statuses: dict[int, int]
    latencies: "array[float]"  # in seconds, ascending
    cpu_seconds: float  # the generator's own

    @property
    def requests(self) -> int:
        return len(self.latencies)

    @property
    def rate(self) -> float:
        return self.requests / self.seconds

    def latency(self, share: float) -> float:
        """The seconds within which this share of the requests was answered."""
        return self.latencies[min(int(share * self.requests), self.requests - 1)]


def get(path: str, *headers: str) -> bytes:
    return _request(f"GET {path}", *headers)


def post(path: str, media_type: str, body: str, *headers: str) -> bytes:
    headers = (f"Content-Type: {media_type}", f"Content-Length: {len(body)}", *headers)
    return _request(f"POST {path}", *headers) + body.encode()


def _request(target: str, *headers: str) -> bytes:
    return "\r\n".join([f"{target} HTTP/1.1", "Host: localhost", *headers, "", ""]).encode()


def drive(load: Load) -> Result:
    """Send the load. Call it in its own process, so that it has its own core."""
    gc.collect()
    gc.disable()  # its pauses would be taken for the server's
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(_drive(load))
    finally:
        gc.enable()


async def _drive(load: Load) -> Result:
    loop = asyncio.get_running_loop()
    run = _Run(load, loop)
    connections = []
    for _ in range(load.connections):
        _, connection = await loop.create_connection(
            lambda: _Connection(run), "127.0.0.1", load.port
        )
        connections.append(connection)
    cpu_seconds = process_time()
    run.start(connections)
    await run.done
    seconds = perf_counter() - run.started_at
    cpu_seconds = process_time() - cpu_seconds
    for connection in connections:
        connection.transport.close()
    return Result(seconds, dict(run.statuses), array("d", sorted(run.latencies)), cpu_seconds)


class _Run:
    def __init__(self, load: Load, loop: asyncio.AbstractEventLoop) -> None:
        self.done: asyncio.Future[None] = loop.create_future()
        self.started_at = 0.0
        self.statuses: Counter[int] = Counter()
        self.latencies = array("d")
        self._loop = loop
        self._requests = islice(cycle(load.requests), load.count)
        self._seconds = load.seconds
        self._per_second = load.per_second
        self._turns = count()
        self._busy = load.connections

    def start(self, connections: "list[_Connection]") -> None:
        self.started_at = perf_counter()
        for connection in connections:
            self._go_on(connection, self.started_at)

    def answered(self, connection: "_Connection", status: int) -> None:
        now = perf_counter()
        self.statuses[status] += 1
        self.latencies.append(now - connection.due_at)
        self._go_on(connection, now)

    def lost(self) -> None:
        if not self.done.done():
            self.done.set_exception(ConnectionError("the server closed a connection"))

    def _go_on(self, connection: "_Connection", now: float) -> None:
        due_at = now
        if self._per_second:
            due_at = self.started_at + next(self._turns) / self._per_second
        request = None
        if max(now, due_at) < self.started_at + self._seconds:
            request = next(self._requests, None)
        if request is None:
            self._busy -= 1
            if not self._busy and not self.done.done():
                self.done.set_result(None)
        elif due_at > now:
            self._loop.call_later(due_at - now, connection.send, request)
        else:
            # Late requests count from when they were due: a server that stalls must not gain by
            # being asked less meanwhile.
            connection.send(request, due_at)


class _Connection(asyncio.Protocol):
    transport: asyncio.Transport
    due_at = 0.0

    def __init__(self, run: _Run) -> None:
        self._run = run
        self._received = b""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # ever a stream
        self.transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        self._run.lost()

    def send(self, request: bytes, due_at: float | None = None) -> None:
        self.due_at = perf_counter() if due_at is None else due_at
        self.transport.write(request)

    def data_received(self, data: bytes) -> None:
        answer = self._received + data if self._received else data
        head = answer.find(b"\r\n\r\n")
        length = _LENGTH.search(answer, 0, head) if head >= 0 else None
        if length is None or len(answer) < head + 4 + int(length[1]):
            self._received = answer
            return
        self._received = b""
        self._run.answered(self, int(answer[9:12]))
