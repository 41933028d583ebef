"""A connection to the service, for one request after another."""

import http.client
import io
import select
import socket
import ssl
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from hourpass.http.errors import HttpError, ReadTimeoutError
from hourpass.http.urls import ProxyUrl, ServiceUrl

if TYPE_CHECKING:
    from typing_extensions import Buffer

PIECE_BYTES = 1 << 16


@dataclass(frozen=True, slots=True)
class Limits:
    """Seconds for each operation on the socket, and the moment at which all must be done."""

    connect: float
    read: float
    deadline: float  # of time.monotonic()

    def left(self, seconds: float) -> float:
        """Seconds for the next operation, at most `seconds`."""
        left = min(seconds, self.deadline - time.monotonic())
        if left <= 0:
            raise ReadTimeoutError("too slow")
        return left


class Headers(Protocol):
    """Names in any case."""

    def get(self, name: str, default: str, /) -> str: ...


@dataclass(frozen=True, slots=True)
class Response:
    status: int
    headers: Headers
    pieces: Iterator[bytes]


class Connection:
    """`opened` is called with each socket, so that another thread can shut it down."""

    def __init__(
        self,
        url: ServiceUrl,
        proxy: ProxyUrl | None,
        context: ssl.SSLContext | None,
        opened: Callable[[socket.socket], None],
        limits: Limits,
    ) -> None:
        self.idle_since = 0.0
        self.is_reusable = False
        self._proxy = proxy if context is None else None  # within TLS it is not there
        self._url = url
        self.socket = _connect(proxy or url, limits)
        opened(self.socket)
        try:
            self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if context:
                if proxy:
                    self._open_tunnel(proxy, limits)
                self.socket.settimeout(limits.left(limits.connect))
                self.socket = context.wrap_socket(self.socket, server_hostname=url.host)
                opened(self.socket)
        except BaseException as error:
            self.close()
            _close_wrapped(error)
            raise

    def _open_tunnel(self, proxy: ProxyUrl, limits: Limits) -> None:
        """RFC 9110, 9.3.6."""
        host = f"[{self._url.host}]" if ":" in self._url.host else self._url.host
        target = f"{host}:{self._url.port}"
        self._send("CONNECT", target, {"Host": target, **proxy.headers}, b"", limits)
        answer = self._answer("CONNECT", limits, limits.connect)
        if answer.status != 200:
            raise HttpError(f"the proxy answers with {answer.status}")

    def request(
        self, method: str, path: str, headers: Mapping[str, str], body: bytes, limits: Limits
    ) -> Response:
        self.is_reusable = False
        target = f"{self._url.path}{path}"
        if self._proxy:
            target = f"{self._url.origin}{target}"
            headers = {**headers, **self._proxy.headers}
        self._send(method, target, {"Host": self._url.netloc, **headers}, body, limits)
        answer = self._answer(method, limits, limits.read)
        return Response(answer.status, answer.headers, self._pieces(answer))

    def _send(
        self, method: str, target: str, headers: Mapping[str, str], body: bytes, limits: Limits
    ) -> None:
        lines = [f"{method} {target} HTTP/1.1", *(f"{name}: {headers[name]}" for name in headers)]
        if any("\r" in line or "\n" in line for line in lines):
            raise HttpError("a line break in the request")
        self.socket.settimeout(limits.left(limits.connect))
        self.socket.sendall("\r\n".join([*lines, "", ""]).encode("latin-1") + body)

    def _answer(self, method: str, limits: Limits, read: float) -> http.client.HTTPResponse:
        source = _Source(self.socket, limits, read)
        answer = http.client.HTTPResponse(source, method=method)  # type: ignore[arg-type] # it only calls makefile()
        answer.begin()
        return answer

    def _pieces(self, answer: http.client.HTTPResponse) -> Iterator[bytes]:
        """The body as it arrives."""
        length = None if answer.chunked else answer.length
        while length != 0:
            piece = answer.read1(min(length or PIECE_BYTES, PIECE_BYTES))
            if not piece:
                if length:
                    raise HttpError("the answer broke off")
                break
            if length is not None:
                length -= len(piece)
            yield piece
        self.is_reusable = not answer.will_close

    def is_open(self) -> bool:
        """False if the service has closed it meanwhile, or has sent what nobody asked for."""
        try:
            if hasattr(select, "poll"):  # select() knows no descriptor above 1,023
                poll = select.poll()
                poll.register(self.socket, select.POLLIN)
                return not poll.poll(0)
            return not select.select([self.socket], [], [], 0)[0]
        except (OSError, ValueError):
            return False

    def close(self) -> None:
        with suppress(OSError):
            self.socket.close()


def _close_wrapped(error: BaseException) -> None:
    """Close the socket that `wrap_socket()` has made, and left open with this error. CPython does
    that if the service has reset the connection a moment before."""
    for frame, _ in traceback.walk_tb(error.__traceback__):
        wrapped = frame.f_locals.get("self")
        if isinstance(wrapped, ssl.SSLSocket):
            with suppress(OSError):
                wrapped.close()


def _connect(to: ServiceUrl | ProxyUrl, limits: Limits) -> socket.socket:
    """Connect to the first of the host's addresses that accepts."""
    refused: OSError | None = None
    for family, kind, protocol, _, address in socket.getaddrinfo(
        to.host, to.port, type=socket.SOCK_STREAM
    ):
        opening = socket.socket(family, kind, protocol)
        try:
            opening.settimeout(limits.left(limits.connect))
            opening.connect(address)
        except OSError as error:
            opening.close()
            refused = refused or error
        except BaseException:
            opening.close()
            raise
        else:
            return opening
    raise refused or HttpError("its name has no address")


class _Source(io.RawIOBase):
    """Reads from a socket within the limits. Each read is bounded, so a server that sends its
    headers a byte at a time cannot make an exchange longer than its deadline."""

    def __init__(self, connected: socket.socket, limits: Limits, read: float) -> None:
        self._socket = connected
        self._limits = limits
        self._read = read

    def makefile(self, _mode: str) -> io.BufferedReader:
        return io.BufferedReader(self)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: "Buffer", /) -> int:
        self._socket.settimeout(self._limits.left(self._read))
        try:
            return self._socket.recv_into(buffer)
        except TimeoutError:
            raise ReadTimeoutError("no answer in time") from None
