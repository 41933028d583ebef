"""What only uvicorn's own protocol can do, so that `hourpass serve` alone has it.

Bounds that the HTTP parser keeps: a path or headers without end never reach the app. (Under a
plain `uvicorn app.main:app` the same bounds hold in exchange.py, once all headers have been read.)
And one call to the kernel per response instead of two.
"""

import asyncio
from functools import lru_cache
from typing import Any, ClassVar, cast

from fastapi import FastAPI
from starlette.types import Scope
from uvicorn._types import ASGI3Application
from uvicorn.protocols.http.httptools_impl import (
    STATUS_LINE,
    HttpToolsProtocol,
    RequestResponseCycle,
)

from app.error_responses import render
from app.errors import HeadersTooLargeError, MalformedRequestError, Refusal, UriTooLongError
from app.exchange import MAX_HEADER_BYTES, MAX_TARGET_BYTES, Exchange, Header, complete


class _Corked:
    """A transport that sends the head of a response together with its body."""

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._held = b""

    def write(self, data: bytes) -> None:
        if self._held:
            data, self._held = self._held + data, b""
            self._transport.write(data)
        else:
            self._held = data
            self._loop.call_soon(self._flush)  # in case that nothing follows at once

    def write_whole(self, response: bytes) -> None:
        self._flush()
        self._transport.write(response)

    def is_closing(self) -> bool:
        return self._transport.is_closing()

    def close(self) -> None:
        self._flush()
        self._transport.close()

    def _flush(self) -> None:
        if self._held:
            self._transport.write(self._held)
            self._held = b""


@lru_cache(maxsize=4096)
def _head(status: int, headers: tuple[Header, ...]) -> bytes:
    """With places for the server's own lines, the request's id, and a line more."""
    lines = b"".join(b"%s: %s\r\n" % header for header in complete(headers)).replace(b"%", b"%%")
    return STATUS_LINE[status] + b"%s" + lines + b"x-request-id: %s\r\n%s\r\n"


class BoundedHttpProtocol(HttpToolsProtocol):
    _refusal: type[Refusal] = MalformedRequestError
    _head_bytes = 0
    _in_head = False
    _has_begun = False  # a message, within the bytes at hand
    _arrived: ClassVar[list[tuple["BoundedHttpProtocol", RequestResponseCycle]]] = []

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._exchange: Exchange = cast("FastAPI", self.app).state.exchange

    def connection_made(  # type: ignore[override] # as uvicorn has it
        self, transport: asyncio.Transport
    ) -> None:
        super().connection_made(transport)
        self._corked = _Corked(transport, self.loop)
        self.transport = cast("asyncio.Transport", self._corked)

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():
            return
        self._has_begun = False
        super().data_received(data)
        # The parser speaks of a header once it is whole, which it may never be.
        if self._in_head and not self._has_begun:
            self._head_bytes += len(data)
            if len(self.url) > MAX_TARGET_BYTES:
                self._refuse(UriTooLongError)
            elif self._head_bytes > MAX_TARGET_BYTES + MAX_HEADER_BYTES:
                self._refuse(HeadersTooLargeError)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._head_bytes = 0
        self._in_head = self._has_begun = True

    def on_headers_complete(self) -> None:
        self._in_head = False
        super().on_headers_complete()

    def _start_asgi_task(self, cycle: RequestResponseCycle, _: ASGI3Application) -> None:
        """What was read in one turn of the event loop is answered in the next, all together, so
        that one look at the news (revocations/news.py) does for all."""
        if not self._arrived:
            self.loop.call_soon(self._answer_all)
        self._arrived.append((self, cycle))

    @classmethod
    def _answer_all(cls) -> None:
        """All are worked out before the first is sent: a client or proxy on this machine is woken
        by it, which costs as much as an answer, and then finds the others one by one."""
        arrived, cls._arrived = cls._arrived, []
        responses = [protocol.at_once(cycle) for protocol, cycle in arrived]
        for (protocol, cycle), response in zip(arrived, responses, strict=True):
            protocol.answer(cycle, response)

    def at_once(self, cycle: RequestResponseCycle) -> bytes | None:
        """The whole response, if it can be had without waiting."""
        if cycle.disconnected or self.flow.write_paused:
            return None
        known = self._exchange.at_once(cast("Scope", cycle.scope))
        if known is None:
            return None
        answer, id_ = known
        date = b"".join(b"%s: %s\r\n" % header for header in self.server_state.default_headers)
        close = b"" if cycle.keep_alive else b"connection: close\r\n"
        head = _head(answer.status, answer.headers) % (date, id_.encode(), close)
        return head if cycle.scope["method"] == "HEAD" else head + answer.body

    def answer(self, cycle: RequestResponseCycle, response: bytes | None) -> None:
        """What needs no waiting needs no task either, nor what comes with one."""
        if response is None:
            super()._start_asgi_task(cycle, self.app)
            return
        self._corked.write_whole(response)
        cycle.response_started = cycle.response_complete = True
        if not cycle.keep_alive:
            self.transport.close()
        cycle.on_response()

    def shutdown(self) -> None:
        """Whoever waits for news is answered now, so that the service need not wait for them."""
        cast("FastAPI", self.app).state.ending.set()
        super().shutdown()

    def _refuse(self, refusal: type[Refusal]) -> None:
        self._refusal = refusal
        self.send_400_response(refusal.message)

    def send_400_response(self, msg: str) -> None:
        response = render(self._refusal())
        headers = complete(tuple(response.raw_headers))
        lines = [STATUS_LINE[response.status_code]]
        lines += [name + b": " + value + b"\r\n" for name, value in headers]
        lines += [b"connection: close\r\n\r\n", bytes(response.body)]
        self.transport.write(b"".join(lines))
        self.transport.close()
