"""Connects to checked addresses, and limits what is read from them.

Imports the HTTP library, so import it only where a request is made.
"""

import logging
import ssl
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any

import httpcore2

from app.configuration.types import Network
from app.outbound_http.addresses import Address, is_allowed, is_in_any, parse_address
from app.outbound_http.errors import OutboundError

CONNECT_SECONDS = 5.0  # for each address
MAX_ADDRESSES = 3  # to try

# At level debug it logs the headers of responses, which are texts of other servers.
logging.getLogger("httpcore2").setLevel(logging.WARNING)

Resolve = Callable[[str, int], Awaitable[list[str]]]


class Bound:
    """How many bytes may still be read."""

    def __init__(self, limit: int) -> None:
        self.left = limit


class CheckedBackend(httpcore2.AsyncNetworkBackend):
    """Looks a name up once, checks all of its addresses and connects to one of these. The library
    verifies the certificate for the name, as always."""

    def __init__(
        self, networks: Sequence[Network], resolve: Resolve, bound: Bound, *, is_encrypted: bool
    ) -> None:
        self._networks = networks
        self._resolve = resolve
        self._bound = bound
        self._is_encrypted = is_encrypted
        self._sockets = httpcore2.AnyIOBackend()
        self._opened: httpcore2.AsyncNetworkStream | None = None

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 - of the base class
        local_address: str | None = None,
        socket_options: Iterable[httpcore2.SOCKET_OPTION] | None = None,
    ) -> httpcore2.AsyncNetworkStream:
        """Raises OutboundError, and the library's ConnectError and ConnectTimeout."""
        failure: Exception = OutboundError("name_not_found")
        for address in (await self._addresses(host, port))[:MAX_ADDRESSES]:
            try:
                stream = await self._sockets.connect_tcp(str(address), port, CONNECT_SECONDS)
            except (httpcore2.ConnectError, httpcore2.ConnectTimeout) as error:
                failure = error
            else:
                self._opened = stream
                return BoundedStream(stream, self._bound)
        raise failure

    async def close(self) -> None:
        """The library leaves a connection open if it is canceled during the TLS handshake."""
        if self._opened:
            await self._opened.aclose()

    async def _addresses(self, host: str, port: int) -> list[Address]:
        """Raises OutboundError if one of them is not allowed: the owner of the name chooses
        which of them comes first."""
        texts = [host] if parse_address(host) else await self._resolve(host, port)
        found = [address for text in texts if (address := parse_address(text))]
        if len(found) < len(texts) or not all(is_allowed(it, self._networks) for it in found):
            raise OutboundError("address_not_allowed")
        if not self._is_encrypted and not all(is_in_any(it, self._networks) for it in found):
            raise OutboundError("not_encrypted")
        return found


class BoundedStream(httpcore2.AsyncNetworkStream):
    """A connection from which a limited number of bytes can be read."""

    def __init__(self, stream: httpcore2.AsyncNetworkStream, bound: Bound) -> None:
        self._stream = stream
        self._bound = bound

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ASYNC109 - as above
        if self._bound.left <= 0:
            raise OutboundError("too_large")
        received = await self._stream.read(min(max_bytes, self._bound.left), timeout)
        self._bound.left -= len(received)
        return received

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ASYNC109 - as above
        await self._stream.write(buffer, timeout)

    async def aclose(self) -> None:
        await self._stream.aclose()

    async def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,  # noqa: ASYNC109 - as above
    ) -> httpcore2.AsyncNetworkStream:
        """Raises OutboundError, for example for a certificate of another name."""
        try:
            encrypted = await self._stream.start_tls(ssl_context, server_hostname, timeout)
        except httpcore2.ConnectError:
            raise OutboundError("tls") from None
        return BoundedStream(encrypted, self._bound)

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)
