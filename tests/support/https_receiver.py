"""A server that other services send requests to, and that answers as a test says."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from ipaddress import ip_network
from pathlib import Path

from app.outbound_http.client import OutboundHttp
from tests.support.certificates import certificate

HOST = "hooks.camelot.example"
LOOPBACK = "127.0.0.0/8"
NO_CONTENT = b"HTTP/1.1 204 No Content\r\n\r\n"


def answer(status: int, *lines: str, body: bytes = b"") -> bytes:
    """A whole response."""
    head = [f"HTTP/1.1 {status} Whatever", f"Content-Length: {len(body)}", *lines, "", ""]
    return "\r\n".join(head).encode() + body


@dataclass
class Request:
    line: str
    headers: dict[str, str]
    body: bytes


@dataclass
class Receiver:
    """`answers` are what it says to the next requests, and afterwards `then`. While it `is_free` is
    not set, it reads and says nothing. `respond` replaces all of this."""

    port: int = 0
    place: Path = Path()
    requests: list[Request] = field(default_factory=list)
    server_names: list[str] = field(default_factory=list)
    connections: int = 0
    answers: list[bytes] = field(default_factory=list)
    then: bytes = NO_CONTENT
    respond: Callable[[asyncio.StreamWriter], Awaitable[None]] | None = None
    is_free: asyncio.Event = field(default_factory=asyncio.Event)
    handlers: set[asyncio.Task[None]] = field(default_factory=set)

    @property
    def url(self) -> str:
        return f"https://{HOST}:{self.port}/hook?key=value"

    def client(
        self, addresses: Sequence[str] = ("127.0.0.1",), networks: str = LOOPBACK
    ) -> OutboundHttp:
        """A client that trusts the certificate, and for which each name has these addresses."""

        async def resolve(_host: str, _port: int) -> list[str]:
            return list(addresses)

        trusting = ssl.create_default_context(cafile=self.place / "cert.pem")
        allowed = [ip_network(networks)] if networks else []
        return OutboundHttp(allowed, resolve, trusting)

    def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        task = asyncio.create_task(self._handle(reader, writer))
        self.handlers.add(task)
        task.add_done_callback(self.handlers.discard)

    async def _handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            with suppress(ConnectionError, asyncio.IncompleteReadError, ssl.SSLError):
                await self._answer(reader, writer)
        finally:
            writer.close()
            with suppress(ConnectionError, ssl.SSLError, asyncio.CancelledError):
                await writer.wait_closed()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        line, *headers = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")[:-2]
        fields = {name.lower(): value for name, value in (it.split(": ", 1) for it in headers)}
        body = await reader.readexactly(int(fields.get("content-length", 0)))
        self.requests.append(Request(line, fields, body))
        await self.is_free.wait()
        if self.respond:
            await self.respond(writer)
        else:
            writer.write(self.answers.pop(0) if self.answers else self.then)
            await writer.drain()


@asynccontextmanager
async def https_receiver(
    place: Path, host: str = HOST, *, tls: bool = True
) -> AsyncIterator[Receiver]:
    receiver = Receiver(place=place)
    receiver.is_free.set()
    context = certificate(place, host)

    def note_name(_socket: object, name: str | None, _context: object) -> None:
        receiver.server_names.append(name or "")

    context.sni_callback = note_name
    server = await asyncio.start_server(
        receiver.accept, "127.0.0.1", 0, ssl=context if tls else None
    )
    receiver.port = server.sockets[0].getsockname()[1]
    try:
        yield receiver
    finally:
        server.close()
        for task in receiver.handlers:
            task.cancel()
        await asyncio.gather(*receiver.handlers, return_exceptions=True)
