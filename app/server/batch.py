"""Answers all requests that were read in one turn of the event loop together, in the next turn.

One check for new revocations (tokens/revocations/cache.py) is then enough for all of them.
"""

import asyncio
from typing import Protocol
from weakref import WeakKeyDictionary

from uvicorn.protocols.http.httptools_impl import RequestResponseCycle


class Connection(Protocol):
    loop: asyncio.AbstractEventLoop

    def try_fast_path(self, cycle: RequestResponseCycle) -> bytes | None: ...
    def answer(self, cycle: RequestResponseCycle, response: bytes | None) -> None: ...
    def fail(self) -> None: ...


class Batch:
    """The requests of one event loop. An error on one connection does not affect the others."""

    def __init__(self) -> None:
        self._requests: list[tuple[Connection, RequestResponseCycle]] = []

    def add(self, connection: Connection, cycle: RequestResponseCycle) -> None:
        if not self._requests:
            connection.loop.call_soon(self._answer)
        self._requests.append((connection, cycle))

    def _answer(self) -> None:
        """Compute all responses before the first is sent. Sending one wakes a client or proxy on
        this machine, which costs as much as a response; it then finds the others one by one."""
        requests, self._requests = self._requests, []
        responses = []
        for connection, cycle in requests:
            try:
                responses.append((connection, cycle, connection.try_fast_path(cycle)))
            except Exception:  # noqa: BLE001 - fail() logs it
                connection.fail()
        for connection, cycle, response in responses:
            try:
                connection.answer(cycle, response)
            except Exception:  # noqa: BLE001 - fail() logs it
                connection.fail()


_batches: WeakKeyDictionary[asyncio.AbstractEventLoop, Batch] = WeakKeyDictionary()


def batch_of(loop: asyncio.AbstractEventLoop) -> Batch:
    """One per event loop: a process can run several servers, each on its own loop."""
    batch = _batches.get(loop)
    if batch is None:
        batch = _batches[loop] = Batch()
    return batch
