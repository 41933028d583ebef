"""The HTTP protocol of `hourpass serve`: one answer for each request, in the order of the requests.

It limits the bytes that wait to be parsed, and sends each response in one system call. Limits of
requests are in request_parser.py, limits of connections and of clients' time in connections.py.
"""

import asyncio
import logging
import select
import socket
import sys
from contextlib import suppress
from functools import lru_cache
from typing import Any, cast

from fastapi import FastAPI
from starlette.types import Scope
from uvicorn._types import ASGI3Application
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, RequestResponseCycle

from app.errors import ApiError, RequestTimeoutError, UnavailableError
from app.http.error_responses import error_response
from app.http.middleware import Header, RequestMiddleware, with_default_headers
from app.server.batch import batch_of
from app.server.connections import Connections, Queue
from app.server.request_parser import RequestParser
from app.server.transport import CoalescingTransport, ReadFlow, raising_if_disconnected

# Bytes parsed at a time: at most 41 requests (of 25 bytes), all of which may be queued.
SLICE_BYTES = 1024
# The service stops reading when more bytes than this follow a queued request. The last read may add
# up to the size of the receive buffer, which Linux doubles (socket(7)).
MAX_HELD_BYTES = 16_384
RECEIVE_BUFFER_BYTES = 32_768
# Bytes read and dropped after the last answer, because a client that still sends when the
# connection is closed loses the answer (RFC 9112, 9.6).
MAX_DROPPED_BYTES = 2**20
# A client that reads this much of its answers within the time limit gets the same time again.
MIN_READ_BYTES = 32_768

_log = logging.getLogger("hourpass.connections")


@lru_cache(maxsize=4096)
def _head(status: int, headers: tuple[Header, ...]) -> bytes:
    """The head, with placeholders for the server's lines, the request id and one more line."""
    lines = b"".join(b"%s: %s\r\n" % header for header in with_default_headers(headers)).replace(
        b"%", b"%%"
    )
    return STATUS_LINE[status] + b"%s" + lines + b"x-request-id: %s\r\n%s\r\n"


class HttpProtocol(RequestParser):
    queue: Queue | None = None  # of connections.py
    idle_queue: Queue
    closing_queue: Queue
    network = ""

    _current: RequestResponseCycle | None = None  # the request that is being answered
    _pending_error: type[ApiError] | None = None  # sent after the answers to earlier requests
    _is_closed = False
    _dropped_bytes = 0
    _unsent_bytes = 0

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        state = cast("FastAPI", self.app).state
        self._middleware: RequestMiddleware = state.middleware
        self._connections: Connections = state.connections
        self._batch = batch_of(self.loop)
        self._held = bytearray()

    # The connection

    def connection_made(  # type: ignore[override] # uvicorn narrows the argument as well
        self, transport: asyncio.Transport
    ) -> None:
        super().connection_made(transport)
        self._raw = transport
        self._flow = self.flow = ReadFlow(transport)
        self._coalescing = CoalescingTransport(transport, self.loop, self._on_close)
        self.transport = cast("asyncio.Transport", self._coalescing)
        with suppress(OSError):  # the client may have disconnected
            transport.get_extra_info("socket").setsockopt(
                socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER_BYTES
            )
        if not self._connections.join(self, self.client[0] if self.client else ""):
            if self._connections.can_refuse:
                self._refuse(UnavailableError)
            else:
                transport.abort()
        elif self._connections.is_stopping:  # it was accepted just before
            self.shutdown()

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
        """Refuse or close the connection: the client has exceeded its time limit."""
        if self._is_closed or self.flow.write_paused:
            if self._unsent_bytes - self._raw.get_write_buffer_size() >= MIN_READ_BYTES:
                self._wait_for_client()
            else:
                self._raw.abort()
        elif self._in_head or self._in_body:
            self._refuse(RequestTimeoutError)
        elif self._has_bytes_to_read():
            self._connections.move(self, self.idle_queue)
        else:
            self.transport.close()

    def evict(self) -> None:
        """Abort this connection, so that another one can take its place."""
        self._is_closed = self._is_last = True
        self._raw.abort()

    def fail(self) -> None:
        """Log the exception being handled, and abort this connection alone."""
        _log.exception("Unexpected error on a connection")
        self.evict()

    def shutdown(self) -> None:
        """Make the next answer the last one. Until then the connection stays open: its client may
        have sent a request just now. Listeners of the feed get their answer at once."""
        cast("FastAPI", self.app).state.stopping.set()
        self._connections.stop()
        self._is_stopping = True
        if self._is_closed:
            if not self._raw.get_write_buffer_size():
                self._raw.abort()
        elif self._current and not self.cycle.response_complete:
            self.cycle.keep_alive = False
        elif self.queue is self._connections.first_heads and not self._in_head:
            self._connections.move(self, self.idle_queue)

    def _has_bytes_to_read(self) -> bool:
        """Whether the client has sent bytes since the event loop last looked. Closing the
        connection would cut that request."""
        if sys.platform == "win32":
            return False
        poll = select.poll()
        poll.register(self._raw.get_extra_info("socket").fileno(), select.POLLIN)
        return bool(poll.poll(0))

    def _on_close(self) -> None:
        """Close the connection. If the client may still be sending, end only the service's side
        first: bytes that arrive at a closed socket make the kernel discard the answer."""
        if self._is_closed:
            return
        is_unread = self._has_unread or self._in_head or self._in_body or bool(self._held)
        self._is_closed = self._is_last = True
        self._held.clear()
        self._wait_for_client()
        if is_unread and self._dropped_bytes <= MAX_DROPPED_BYTES:
            self._flow.clear()
            try:
                self._raw.write_eof()
            except OSError:  # from asyncio's transport: the client has disconnected
                self._raw.abort()
        else:
            self._raw.close()

    def _watch(self) -> None:
        """Move the connection to the queue of what it now waits for."""
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
            self._wait_for_client()
        elif queue is not self.queue:
            connections.move(self, queue)

    def _wait_for_client(self) -> None:
        """Start the time limit for reading the unsent bytes or, if there are none, for closing."""
        self._unsent_bytes = self._raw.get_write_buffer_size()
        queue = self._connections.stalled if self._unsent_bytes else self.closing_queue
        self._connections.move(self, queue)

    # Receiving

    def data_received(self, data: bytes) -> None:
        if self._is_last:
            self._drop(len(data))
            return
        if len(data) <= SLICE_BYTES and not self.pipeline:  # so nothing is held
            self._parse(data)
            if self.pipeline:
                self._keep_reading()
        else:
            self._held += data
            self._parse_held()
        self._watch()

    def _parse_held(self) -> None:
        """Parse the held bytes until a request has to be queued."""
        while self._held and not self.pipeline:
            data = bytes(self._held[:SLICE_BYTES])
            del self._held[:SLICE_BYTES]
            self._parse(data)
        self._keep_reading()

    def _keep_reading(self) -> None:
        """Read while there is room, which uvicorn would not do. Only reading shows that the client
        has disconnected."""
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

    # Answering

    def _start_asgi_task(self, cycle: RequestResponseCycle, _: ASGI3Application) -> None:
        self._current = cycle
        self._batch.add(self, cycle)

    def try_fast_path(self, cycle: RequestResponseCycle) -> bytes | None:
        """The whole response, or None if it needs the database or has to wait."""
        if cycle.disconnected or self.flow.write_paused:
            return None
        result = self._middleware.try_fast_path(cast("Scope", cycle.scope))
        if result is None:
            return None
        answer, id_ = result
        date = b"".join(b"%s: %s\r\n" % header for header in self.server_state.default_headers)
        close = b"" if cycle.keep_alive else b"connection: close\r\n"
        head = _head(answer.status, answer.headers) % (date, id_.encode(), close)
        return head if cycle.scope["method"] == "HEAD" else head + answer.body

    def answer(self, cycle: RequestResponseCycle, response: bytes | None) -> None:
        """Send the response, or start a task that computes it."""
        if cycle.response_complete:  # refused because of its body
            return
        if response is None:
            super()._start_asgi_task(cycle, raising_if_disconnected(self.app, cycle))
            return
        self._coalescing.write_whole(response)
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
        elif self._pending_error:
            self._send_error(self._pending_error)
        if self._held:
            self._parse_held()
        self._watch()

    def _end_with(self, cycle: RequestResponseCycle) -> None:
        """Make the answer to this request the last one; close if it has been sent."""
        self._is_last = True
        cycle.keep_alive = False
        if cycle.response_complete:
            self.transport.close()

    def _refuse(self, error: type[ApiError]) -> None:
        """Answer the message being received with an error, after the answers to earlier requests.
        A message that has been answered gets no second answer."""
        self._is_last = self._has_unread = True
        self._held.clear()
        cycle, current = self.cycle, self._current
        if self._in_body and cycle is not current:  # it is queued
            self.pipeline.popleft()
        elif self._in_body and (cycle.response_started or cycle.response_complete):
            self._end_with(cycle)
            return
        elif self._in_body:
            cycle.disconnected = cycle.response_complete = True
            cycle.message_event.set()
        if current is None or current.response_complete:
            self._send_error(error)
        else:
            self._pending_error = error

    def _send_error(self, error: type[ApiError]) -> None:
        if error.limit:
            self._connections.refusals[error.limit] += 1
        response = error_response(error())
        headers = [
            *self.server_state.default_headers,
            *with_default_headers(tuple(response.raw_headers)),
        ]
        lines = [STATUS_LINE[response.status_code]]
        lines += [name + b": " + value + b"\r\n" for name, value in headers]
        lines += [b"connection: close\r\n\r\n", bytes(response.body)]
        self._coalescing.write_whole(b"".join(lines))
        self.transport.close()
