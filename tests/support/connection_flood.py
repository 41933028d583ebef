"""A client that holds as many connections as it can, and opens again what the service closes."""

import socket
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress

import httpx

_START_TIMEOUT_SECONDS = 60
# Opened at first before the service has to accept them. The kernel drops what does not fit into the
# listen backlog (128 with 1,024 open files), and the client tries again a second later.
_BURST = 64


class Flood:
    """On some nothing is ever sent, on the others a head that does not end."""

    def __init__(self, base_url: str, source: str, silent: int, trickling: int) -> None:
        url = httpx.URL(base_url)
        self._address = (url.host, url.port)
        self._source = source
        self._silent = silent
        self._held: list[socket.socket | None] = [None] * (silent + trickling)
        self.is_full = threading.Event()
        self.is_over = threading.Event()

    def run(self) -> None:
        while not self.is_over.is_set():
            for place in range(len(self._held)):
                if self.is_over.is_set():
                    break
                self._keep(place)
                if place % _BURST == 0 and not self.is_full.is_set():
                    self._wait_until_accepted()
            self.is_full.set()
        for connection in filter(None, self._held):
            connection.close()

    def _keep(self, place: int) -> None:
        connection = self._held[place]
        if connection and not _is_alive(connection):
            connection.close()
            connection = None
        is_new = connection is None
        connection = self._held[place] = connection or self._connect()
        if connection and place >= self._silent:
            with suppress(OSError):
                connection.send(b"GET / HTTP/1.1\r\nX: " if is_new else b"y")

    def _wait_until_accepted(self) -> None:
        """Connections are accepted in their order, so the last one's answer shows it for all."""
        with suppress(OSError), closing(self._connect() or socket.socket()) as connection:
            connection.settimeout(2)
            connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            connection.recv(4096)

    def _connect(self) -> socket.socket | None:
        connection = socket.socket()
        try:
            connection.bind((self._source, 0))
            connection.settimeout(2)
            connection.connect(self._address)
        except OSError:
            connection.close()
            return None
        connection.setblocking(False)
        return connection


def _is_alive(connection: socket.socket) -> bool:
    try:
        return bool(connection.recv(4096))
    except BlockingIOError:
        return True
    except OSError:
        return False


@contextmanager
def flooding(base_url: str, source: str, silent: int, trickling: int) -> Iterator[None]:
    """From the moment when all connections have been opened once."""
    flood = Flood(base_url, source, silent, trickling)
    thread = threading.Thread(target=flood.run)
    thread.start()
    try:
        assert flood.is_full.wait(_START_TIMEOUT_SECONDS)
        yield
    finally:
        flood.is_over.set()
        thread.join()
