"""HTTP/1.1 by hand, to send what no client would, in the segments that a test asks for."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import NamedTuple

import httpx

UPGRADE = (
    "Connection: Upgrade, HTTP2-Settings",
    "Upgrade: h2c",
    "HTTP2-Settings: AAMAAABkAAQAAP__",
)


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes


@contextmanager
def connected(base_url: str, source: str | None = None) -> Iterator[socket.socket]:
    url = httpx.URL(base_url)
    address = (url.host, url.port or 80)
    from_here = (source, 0) if source else None
    with socket.create_connection(address, timeout=10, source_address=from_here) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        yield connection


def request(line: str, *headers: str, body: bytes | str = b"", version: str = "1.1") -> bytes:
    """With Content-Length, if there is a body."""
    body = body.encode() if isinstance(body, str) else body
    if body:
        headers = (*headers, f"Content-Length: {len(body)}")
    return "\r\n".join([f"{line} HTTP/{version}", "Host: x", *headers, "", ""]).encode() + body


def chunked(line: str, *headers: str, body: bytes, trailers: bytes = b"") -> bytes:
    """In chunks of ten bytes."""
    head = request(line, *headers, "Transfer-Encoding: chunked")
    chunks = [body[start : start + 10] for start in range(0, len(body), 10)]
    parts = [b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks]
    return head + b"".join(parts) + b"0\r\n" + trailers + b"\r\n"


def send_all(connection: socket.socket, data: bytes, step: int = 2**30) -> None:
    """As much as the service takes, so many bytes at a time."""
    with suppress(ConnectionError):  # it has answered and closed already
        for start in range(0, len(data), step):
            connection.sendall(data[start : start + step])


def read_all(connection: socket.socket) -> bytes:
    """Until the service closes the connection."""
    parts = []
    with suppress(ConnectionError):
        while part := connection.recv(65536):
            parts.append(part)
    return b"".join(parts)


def read_answers(connection: socket.socket) -> list[Answer]:
    """All there are until the service closes the connection, and nothing besides them."""
    return parse_answers(read_all(connection))


def parse_answers(received: bytes) -> list[Answer]:
    found = []
    while received:
        head, _, received = received.partition(b"\r\n\r\n")
        status_line, *lines = head.decode().split("\r\n")
        assert status_line.startswith("HTTP/1.1 "), status_line
        status = int(status_line.split()[1])
        pairs = (line.partition(":") for line in lines)
        headers = {name.lower(): value.strip() for name, _, value in pairs}
        if headers.get("transfer-encoding") == "chunked":
            body, received = _unchunked(received)
        else:
            length = int(headers.get("content-length", 0))
            body, received = received[:length], received[length:]
            assert len(body) == length
        if status >= 200:
            found.append(Answer(status, headers, body))
    return found


def _unchunked(received: bytes) -> tuple[bytes, bytes]:
    """The body, and what follows it."""
    body = b""
    while True:
        size, _, received = received.partition(b"\r\n")
        length = int(size, 16)
        body += received[:length]
        assert received[length : length + 2] == b"\r\n"
        received = received[length + 2 :]
        if length == 0:
            return body, received
