"""Transport and flow control. A response is one write, reading stays paused while too much is held,
and send() raises if the client has disconnected."""

import asyncio
from collections.abc import Callable
from typing import cast

from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn._types import ASGI3Application
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle


class CoalescingTransport:
    """Sends the head of a response together with its body. close() calls `on_close`, which closes
    the transport."""

    def __init__(
        self,
        transport: asyncio.Transport,
        loop: asyncio.AbstractEventLoop,
        on_close: Callable[[], None],
    ) -> None:
        self._transport = transport
        self._loop = loop
        self._on_close = on_close
        self._is_closing = False
        self._held = b""

    def write(self, data: bytes) -> None:
        if self._held:
            data, self._held = self._held + data, b""
            self._write(data)
        else:
            self._held = data
            self._loop.call_soon(self._flush)  # in case the body does not follow at once

    def write_whole(self, response: bytes) -> None:
        self._flush()
        self._write(response)

    def is_closing(self) -> bool:
        return self._is_closing or self._transport.is_closing()

    def close(self) -> None:
        if not self.is_closing():
            self._flush()
            self._is_closing = True
            self._on_close()

    def _flush(self) -> None:
        if self._held:
            data, self._held = self._held, b""
            self._write(data)

    def _write(self, data: bytes) -> None:
        if not self.is_closing():
            self._transport.write(data)


class ReadFlow(FlowControl):
    """Flow control that ignores resume_reading() while the connection holds too many bytes. uvicorn
    resumes reading whenever the application asks for more of a body."""

    is_full = False

    def resume_reading(self) -> None:
        if not self.is_full:
            super().resume_reading()

    def fill(self) -> None:
        self.is_full = True
        self.pause_reading()

    def clear(self) -> None:
        self.is_full = False
        self.resume_reading()


def raising_if_disconnected(app: ASGI3Application, cycle: RequestResponseCycle) -> ASGI3Application:
    """An app whose send() raises OSError if the client has disconnected (ASGI, version 2.4).
    uvicorn's returns, as if it had sent the message."""

    async def run(scope: Scope, receive: Receive, send: Send) -> None:
        async def send_or_raise(message: Message) -> None:
            await send(message)
            if cycle.disconnected:
                raise ConnectionResetError

        await cast("ASGIApp", app)(scope, receive, send_or_raise)

    return cast("ASGI3Application", run)
