"""Makes HTTP requests to URLs that others have chosen.

A request goes to an address that was checked (addresses.py), over TLS unless the operator has
allowed the address. It follows no redirect, uses no proxy and no credentials of the environment,
keeps no cookies and no connection, and decompresses nothing: httpcore2 does none of these.
"""

import asyncio
import ssl
from collections.abc import Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, NamedTuple

from app import __version__
from app.configuration.types import Network
from app.outbound_http.addresses import is_allowed, is_in_any, parse_address
from app.outbound_http.errors import OutboundError
from app.outbound_http.resolver import Resolver
from app.outbound_http.urls import Url, parse_url

if TYPE_CHECKING:
    import httpcore2

    from app.outbound_http.transport import Bound, Resolve

TIMEOUT_SECONDS = 15.0  # from looking up the name to the end of the response
MAX_HEAD_BYTES = 16 * 1024  # of the status line and the headers
USER_AGENT = f"Hourpass/{__version__}"


class Response(NamedTuple):
    """`headers` have names in lower case. The body is empty unless it was asked for."""

    status: int
    headers: Sequence[tuple[str, str]]
    body: bytes


class OutboundHttp:
    """`networks` may be reached although they are private, and without TLS. `resolve` and
    `ssl_context` replace the system's in tests."""

    def __init__(
        self,
        networks: Sequence[Network],
        resolve: "Resolve | None" = None,
        ssl_context: ssl.SSLContext | None = None,
    ) -> None:
        self._networks = networks
        self._resolve = resolve or Resolver()
        self._ssl_context = ssl_context

    def check_url(self, url: str) -> None:
        """Check a URL without looking up its host. Raises ValueError, whose text says what to
        write."""
        target = parse_url(url)
        address = parse_address(target.host)
        may_be_http = is_in_any(address, self._networks) if address else bool(self._networks)
        if target.scheme == "http" and not may_be_http:
            raise ValueError("must begin with https://")
        if address and not is_allowed(address, self._networks):
            raise ValueError("must have a public IP address, or one that OUTBOUND_NETWORKS allows")

    async def send(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        content: bytes = b"",
        max_body: int = 0,
    ) -> Response:
        """Send a request, and read at most `max_body` bytes of the response's body: with 0, none.

        Raises OutboundError.
        """
        try:
            target = parse_url(url)
        except ValueError:
            raise OutboundError("invalid_url") from None
        try:
            async with asyncio.timeout(TIMEOUT_SECONDS):
                return await self._send(method, target, headers or {}, content, max_body)
        except TimeoutError:
            raise OutboundError("timeout") from None

    async def _send(
        self,
        method: str,
        url: Url,
        headers: Mapping[str, str],
        content: bytes,
        max_body: int,
    ) -> Response:
        """Raises OutboundError."""
        import httpcore2

        from app.outbound_http.transport import Bound, CheckedBackend

        bound = Bound(MAX_HEAD_BYTES)
        encrypted = url.scheme == "https"
        backend = CheckedBackend(self._networks, self._resolve, bound, is_encrypted=encrypted)
        own_headers: dict[bytes | str, bytes | str] = {
            "Host": url.host_header,
            "User-Agent": USER_AGENT,
            "Accept-Encoding": "identity",
            "Connection": "close",
            **dict(headers.items()),
        }
        context = self._ssl_context or _default_ssl_context()
        address = httpcore2.URL(scheme=url.scheme, host=url.host, port=url.port, target=url.target)
        try:
            async with (
                httpcore2.AsyncConnectionPool(context, network_backend=backend) as pool,
                pool.stream(method, address, headers=own_headers, content=content) as response,
            ):
                received = [
                    (name.decode("latin-1").lower(), value.decode("latin-1"))
                    for name, value in response.headers
                ]
                body = await _read(response, received, bound, max_body) if max_body else b""
                return Response(response.status, received, body)
        except httpcore2.TimeoutException:
            raise OutboundError("timeout") from None
        except httpcore2.ConnectError:
            raise OutboundError("connect") from None
        except (httpcore2.NetworkError, httpcore2.ProtocolError, ssl.SSLError):
            raise OutboundError("protocol") from None
        finally:
            await backend.close()


async def _read(
    response: "httpcore2.Response",
    headers: Sequence[tuple[str, str]],
    bound: "Bound",
    max_body: int,
) -> bytes:
    """Raises OutboundError."""
    if any(name == "content-encoding" and value != "identity" for name, value in headers):
        raise OutboundError("encoded")
    bound.left += 2 * max_body  # with chunks of a sensible size
    body = b""
    async for part in response.aiter_stream():
        body += part
        if len(body) > max_body:
            raise OutboundError("too_large")
    return body


@cache
def _default_ssl_context() -> ssl.SSLContext:
    """The authorities of the system, or of SSL_CERT_FILE. Reading them takes 20 ms."""
    return ssl.create_default_context()
