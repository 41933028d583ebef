"""What only uvicorn's own protocol can do, so that `hourpass serve` alone has it.

Exactly one answer for each request, in their order, while no more of them is kept than has to be.
Bounds on what is parsed are in request_parser.py, those on connections and on the time that clients
take in connections.py. And one call to the kernel per response instead of two.
"""

import asyncio
import socket
from contextlib import suppress
from functools import lru_cache
from typing import Any, ClassVar, cast

from fastapi import FastAPI
from starlette.types import Scope
from uvicorn._types import ASGI3Application
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, RequestResponseCycle

from app.connections import Connections, Queue
from app.error_responses import render
from app.errors import Refusal, RequestTimeoutError, UnavailableError
from app.exchange import Exchange, Header, complete
from app.request_parser import RequestParser
from app.transport import CorkedTransport, ReadFlow

# What is parsed at a time, and so how many requests at most can wait in line: 56 of 18 bytes.
SLICE_BYTES = 1024
# Bytes behind a request that waits in line, after which the connection is not read any further.
# One more read may come on top; the receive buffer (twice this, says socket(7)) bounds it.
MAX_HELD_BYTES = 16_384
RECEIVE_BUFFER_BYTES = 32_768
# Of a request that was answered early: read and dropped, because a client that still sends when the
# connection is closed loses the answer (RFC 9112, 9.6).
MAX_DROPPED_BYTES = 2**20
# A client that takes this much of its answers in the time that it has, has that time again.
MIN_TAKEN_BYTES = 32_768


@lru_cache(maxsize=4096)
def _head(status: int, headers: tuple[Header, ...]) -> bytes:
    """With places for the server's own lines, the request's id, and a line more."""
    lines = b"".join(b"%s: %s\r\n" % header for header in complete(headers)).replace(b"%", b"%%")
    return STATUS_LINE[status] + b"%s" + lines + b"x-request-id: %s\r\n%s\r\n"


class BoundedHttpProtocol(RequestParser):
    queue: Queue | None = None  # of connections.py
    idle_queue: Queue
    closing_queue: Queue
    network = ""

    _current: RequestResponseCycle | None = None  # the request that is being answered
    _refusal: type[Refusal] | None = None  # to be sent after the answers that are due before it
    _is_closed = False
    _dropped_bytes = 0
    _unsent_bytes = 0

    _arrived: ClassVar[list[tuple["BoundedHttpProtocol", RequestResponseCycle]]] = []

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        state = cast("FastAPI", self.app).state
        self._exchange: Exchange = state.exchange
        self._connections: Connections = state.connections
        self._held = bytearray()

    # The connection

    def connection_made(  # type: ignore[override] # as uvicorn has it
        self, transport: asyncio.Transport
    ) -> None:
        super().connection_made(transport)
        self._raw = transport
        self._flow = self.flow = ReadFlow(transport)
        self._corked = CorkedTransport(transport, self.loop, self._on_close)
        self.transport = cast("asyncio.Transport", self._corked)
        with suppress(OSError):  # the client may have gone already
            transport.get_extra_info("socket").setsockopt(
                socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER_BYTES
            )
        if not self._connections.join(self, self.client[0] if self.client else ""):
            if self._connections.can_tell:
                self._refuse(UnavailableError)
            else:
                transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._is_closed = self._is_last = True
        self._connections.leave(self)
        super().connection_lost(exc)
        if self._current and not self._current.response_complete:
            self._current.disconnected = True
            self._current.message_event.set()
        self.pipeline.clear()
        self._held.clear()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._watch()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._watch()

    def expire(self) -> None:
        """The client has let the time pass that it had."""
        if self._is_closed or self.flow.write_paused:
            if self._unsent_bytes - self._raw.get_write_buffer_size() >= MIN_TAKEN_BYTES:
                self._move_to_stalled()
            else:
                self._raw.abort()
        elif self._in_head or self._in_body:
            self._refuse(RequestTimeoutError)
        else:
            self.transport.close()

    def evict(self) -> None:
        """Another connection needs the place of this one, on which no request is in progress."""
        self._is_closed = self._is_last = True
        self._raw.abort()

    def shutdown(self) -> None:
        """Whoever waits for news is answered now, so that the service need not wait for them."""
        cast("FastAPI", self.app).state.ending.set()
        if self._is_closed and not self._raw.get_write_buffer_size():
            self._raw.abort()
        super().shutdown()

    def _on_close(self) -> None:
        """If the client may still be sending, it gets the end of what we send first, and time to
        read it: what arrives at a closed socket makes the kernel throw the answer away."""
        if self._is_closed:
            return
        is_unread = self._has_unread or self._in_head or self._in_body or bool(self._held)
        self._is_closed = self._is_last = True
        self._held.clear()
        if self._raw.get_write_buffer_size():
            self._move_to_stalled()
        else:
            self._connections.move(self, self.closing_queue)
        if is_unread and self._dropped_bytes <= MAX_DROPPED_BYTES:
            self._flow.clear()
            self._raw.write_eof()
        else:
            self._raw.close()

    def _watch(self) -> None:
        """Have the time of what is now waited for taken."""
        current = self._current
        if current is None or self._is_closed:
            return
        connections = self._connections
        queue: Queue | None
        if self.flow.write_paused:
            queue = connections.stalled
        elif self._in_body and self.cycle is current:
            queue = connections.bodies
        elif not current.response_complete:
            queue = None
        elif self._in_head:
            queue = connections.heads
        else:
            queue = self.idle_queue
        if queue is connections.stalled and self.queue is not queue:
            self._move_to_stalled()
        elif queue is not self.queue:
            connections.move(self, queue)

    def _move_to_stalled(self) -> None:
        self._unsent_bytes = self._raw.get_write_buffer_size()
        self._connections.move(self, self._connections.stalled)

    # What arrives

    def data_received(self, data: bytes) -> None:
        if self._is_last:
            self._drop(len(data))
            return
        if len(data) <= SLICE_BYTES and not self._held and not self.pipeline:
            self._parse(data)
            if self.pipeline:
                self._keep_reading()
        else:
            self._held += data
            self._parse_held()
        self._watch()

    def _parse_held(self) -> None:
        """As far as no request waits in line."""
        while self._held and not self.pipeline:
            data = bytes(self._held[:SLICE_BYTES])
            del self._held[:SLICE_BYTES]
            self._parse(data)
        self._keep_reading()

    def _keep_reading(self) -> None:
        """While there is room, though uvicorn would stop: only by reading is it heard that the
        client has gone."""
        if self._is_closed:
            return
        if len(self._held) > MAX_HELD_BYTES:
            self._flow.fill()
        else:
            self._flow.clear()

    def _drop(self, number: int) -> None:
        self._has_unread = True
        self._dropped_bytes += number
        if self._dropped_bytes > MAX_DROPPED_BYTES:
            if self._is_closed:
                self._raw.close()
            else:
                self._flow.fill()

    # What is answered

    def _start_asgi_task(self, cycle: RequestResponseCycle, _: ASGI3Application) -> None:
        """What was read in one turn of the event loop is answered in the next, all together, so
        that one look for revocations (revocations/cache.py) does for all."""
        self._current = cycle
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
        if cycle.response_complete:  # refused, for what came after its head
            return
        if response is None:
            super()._start_asgi_task(cycle, self.app)
            return
        self._corked.write_whole(response)
        cycle.response_started = cycle.response_complete = True
        if not cycle.keep_alive:
            self.transport.close()
        cycle.on_response()

    def on_response_complete(self) -> None:
        self.server_state.total_requests += 1
        if self._is_closed:
            return
        if self.pipeline:
            cycle, app = self.pipeline.pop()
            self._start_asgi_task(cycle, app)
        elif self._refusal:
            self._send_refusal(self._refusal)
        if self._held:
            self._parse_held()
        self._watch()

    def _end_with(self, cycle: RequestResponseCycle) -> None:
        """The answer to this request is the last one; if it was sent already, close."""
        self._is_last = True
        cycle.keep_alive = False
        if cycle.response_complete:
            self.transport.close()

    def _refuse(self, refusal: type[Refusal]) -> None:
        """Answer what is being received with an error, once the requests before it are answered.
        If it has an answer already, it gets no other one."""
        self._is_last = self._has_unread = True
        self._held.clear()
        cycle, current = self.cycle, self._current
        if self._in_body and cycle is not current:  # it waits in line
            self.pipeline.popleft()
        elif self._in_body and (cycle.response_started or cycle.response_complete):
            self._end_with(cycle)
            return
        elif self._in_body:
            cycle.disconnected = cycle.response_complete = True
            cycle.message_event.set()
        if current is None or current.response_complete:
            self._send_refusal(refusal)
        else:
            self._refusal = refusal

    def _send_refusal(self, refusal: type[Refusal]) -> None:
        response = render(refusal())
        headers = [*self.server_state.default_headers, *complete(tuple(response.raw_headers))]
        lines = [STATUS_LINE[response.status_code]]
        lines += [name + b": " + value + b"\r\n" for name, value in headers]
        lines += [b"connection: close\r\n\r\n", bytes(response.body)]
        self._corked.write_whole(b"".join(lines))
        self.transport.close()
