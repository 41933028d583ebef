"""Sends requests to one service, from any number of threads."""

import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from http.client import HTTPException
from threading import BoundedSemaphore, Lock
from typing import Protocol

from hourpass.http.connection import Connection, Limits, Response
from hourpass.http.errors import ClosedError, HttpError, cause_of
from hourpass.http.tls import Tls
from hourpass.http.urls import ProxyUrl, ServiceUrl

# A request that gets none of these connections fails, so that a flood cannot fill the memory.
MAX_CONNECTIONS = 64
# Shorter than the service's (uvicorn: 5 s), which could close a connection during a request.
KEPT_ALIVE_SECONDS = 2.0


class Client(Protocol):
    def stream(
        self, method: str, path: str, headers: Mapping[str, str], body: bytes, limits: Limits
    ) -> AbstractContextManager[Response]:
        """The response, whose body is read within the block. Raises HttpError."""

    def interrupt(self) -> None:
        """Make all requests of other threads fail at once."""

    def close(self) -> None:
        """Must not be called during a request of another thread; see interrupt()."""


class SocketClient:
    def __init__(self, url: ServiceUrl, tls: Tls, proxy: ProxyUrl | None) -> None:
        self._url = url
        self._tls = tls
        self._proxy = proxy
        self._free = BoundedSemaphore(MAX_CONNECTIONS)
        self._idle: list[Connection] = []
        self._is_closed = self._is_interrupted = False
        self._changing = Lock()
        self._sockets: set[socket.socket] = set()

    @contextmanager
    def stream(
        self, method: str, path: str, headers: Mapping[str, str], body: bytes, limits: Limits
    ) -> Iterator[Response]:
        """Like Client.stream()."""
        if self._is_closed:
            raise ClosedError("closed meanwhile")
        if not self._free.acquire(timeout=limits.left(limits.connect)):
            raise HttpError("too many requests at once")
        connection: Connection | None = None
        try:
            connection, response = self._request(method, path, headers, body, limits)
            yield response
        except (OSError, HTTPException) as error:
            raise HttpError(cause_of(error)) from None
        finally:
            if connection is not None:
                self._release(connection)
            self._free.release()

    def _request(
        self, method: str, path: str, headers: Mapping[str, str], body: bytes, limits: Limits
    ) -> tuple[Connection, Response]:
        while (kept := self._kept()) is not None:
            try:
                return kept, kept.request(method, path, headers, body, limits)
            except (OSError, HTTPException):  # the service closed it at this moment
                self._release(kept)
                if method != "GET":
                    raise
            except BaseException:
                self._release(kept)
                raise
        context = self._tls.context() if self._url.scheme == "https" else None
        new = Connection(self._url, self._proxy, context, self._opened, limits)
        try:
            return new, new.request(method, path, headers, body, limits)
        except BaseException:
            self._release(new)
            raise

    def _kept(self) -> Connection | None:
        """A connection that an earlier request left open."""
        while True:
            with self._changing:
                if not self._idle:
                    return None
                connection = self._idle.pop()
            is_young = time.monotonic() - connection.idle_since < KEPT_ALIVE_SECONDS
            if is_young and connection.is_open():
                connection.is_reusable = False
                return connection
            connection.is_reusable = False
            self._release(connection)

    def _release(self, connection: Connection) -> None:
        with self._changing:
            if connection.is_reusable and not self._is_closed and not self._is_interrupted:
                connection.idle_since = time.monotonic()
                self._idle.append(connection)
                return
            self._sockets.discard(connection.socket)
            connection.close()

    def _opened(self, opened: socket.socket) -> None:
        with self._changing:
            # A socket that was wrapped in TLS has no descriptor any more.
            self._sockets = {known for known in self._sockets if known.fileno() >= 0}
            self._sockets.add(opened)
            if self._is_interrupted:
                _shut_down(opened)

    def interrupt(self) -> None:
        """Like Client.interrupt()."""
        with self._changing:
            self._is_interrupted = True
            for connected in self._sockets:
                _shut_down(connected)

    def close(self) -> None:
        """Like Client.close()."""
        with self._changing:
            self._is_closed = True
            for connection in self._idle:
                connection.close()
            self._idle.clear()


def _shut_down(connected: socket.socket) -> None:
    """Wake the thread that reads from the socket. Its file descriptor stays open, so another
    connection cannot get the same number meanwhile. This shuts down the socket below TLS: after
    an end of TLS alone, a writer could continue in plain text."""
    with suppress(OSError):  # closed already
        socket.socket.shutdown(connected, socket.SHUT_RDWR)
