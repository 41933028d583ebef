"""A transport of httpx or httpx2 that the caller gives, in place of this package's connections.

For networks that need one, and for tests. Such a transport bounds each read; the deadline of the
whole exchange is checked between the pieces of the body.
"""

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Lock
from types import ModuleType
from typing import Any, Protocol, TypeAlias, cast

from hourpass.http.client import Client, SocketClient
from hourpass.http.connection import Limits, Response
from hourpass.http.errors import ClosedError, HttpError, ReadTimeoutError, cause_of
from hourpass.http.tls import Tls
from hourpass.http.urls import ProxyUrl, ServiceUrl

_LIBRARIES = ("httpx", "httpx2")


class BaseTransport(Protocol):
    """As httpx.BaseTransport and httpx2.BaseTransport."""

    def handle_request(self, request: Any) -> Any: ...

    def close(self) -> None: ...


Transport: TypeAlias = BaseTransport | Callable[[], BaseTransport]


def is_shared(transport: Transport | None) -> bool:
    """Whether it is a transport itself, which stays the caller's, and not a function that creates
    one for each client."""
    return hasattr(transport, "handle_request") and not isinstance(transport, type)


def without_shared(transport: Transport | None) -> Transport | None:
    """What a forked child may use of it: not its parent's connections."""
    return _refuse_to_share if is_shared(transport) else transport


def _refuse_to_share() -> BaseTransport:
    raise HttpError("transport= belongs to the parent process; give a function that creates one")


def new_client(
    url: ServiceUrl, tls: Tls, proxy: ProxyUrl | None, transport: Transport | None
) -> Client:
    if transport is None:
        return SocketClient(url, tls, proxy)
    return TransportClient(url, transport)


@dataclass(frozen=True, slots=True)
class Request:
    method: str
    url: str
    headers: dict[str, str]
    content: bytes | None
    extensions: dict[str, Any]

    def of(self, library: ModuleType | None) -> Any:
        """The request as one of httpx or httpx2, for a transport of that library."""
        if library is None:
            return self
        return library.Request(**{name: getattr(self, name) for name in self.__slots__})


class TransportClient:
    def __init__(self, url: ServiceUrl, transport: Transport) -> None:
        self._url = url
        self._given = transport
        self._own: BaseTransport | None = None  # created by the function that was given
        self._creating = Lock()
        self._is_closed = False

    @contextmanager
    def stream(
        self, method: str, path: str, headers: Mapping[str, str], body: bytes, limits: Limits
    ) -> Iterator[Response]:
        """Like Client.stream()."""
        if self._is_closed:
            raise ClosedError("closed meanwhile")
        timeouts = dict.fromkeys(("connect", "write", "pool"), limits.connect)
        request = Request(
            method,
            f"{self._url}{path}",
            headers=dict(headers),
            content=body or None,
            extensions={"timeout": {**timeouts, "read": limits.read}},
        )
        transport = self._transport()
        try:
            response = transport.handle_request(request.of(_library_of(transport)))
            try:
                yield Response(response.status_code, response.headers, iter(response.stream))
            finally:
                response.stream.close()
        except _errors("ReadTimeout") as error:
            raise ReadTimeoutError(type(error).__name__) from None
        except _errors("HTTPError") as error:
            raise HttpError(type(error).__name__) from None
        except OSError as error:
            raise HttpError(cause_of(error)) from None
        except RuntimeError:  # httpx has no class of its own for it
            raise ClosedError("closed meanwhile") from None

    def _transport(self) -> BaseTransport:
        if is_shared(self._given):
            return cast("BaseTransport", self._given)
        with self._creating:
            if self._own is None:
                self._own = cast("Callable[[], BaseTransport]", self._given)()
            return self._own

    def interrupt(self) -> None:
        """It has no sockets that could be shut down: a request ends with its next piece."""

    def close(self) -> None:
        """Like Client.close(). A transport that was given stays open."""
        self._is_closed = True
        if self._own is not None:
            self._own.close()


def _library_of(transport: BaseTransport) -> ModuleType | None:
    for base in type(transport).__mro__:
        package = base.__module__.partition(".")[0]
        if package in _LIBRARIES:
            return sys.modules[package]
    return None


def _errors(name: str) -> tuple[type[Exception], ...]:
    """The class of that name in each library that is loaded."""
    loaded = (sys.modules.get(library) for library in _LIBRARIES)
    return tuple(getattr(library, name) for library in loaded if library)
