"""Opens the sockets that `hourpass serve` listens on: the same ones for one worker and for several.

The addresses of a host name get a socket each. `::` gets one that takes IPv4 connections as well.
"""

import errno
import os
import socket
from typing import Any

# The kernel may lack IPv6, although the host's name has an IPv6 address.
_NO_SUCH_ADDRESS = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)


def bind(host: str, port: int, *, is_shared: bool) -> list[socket.socket]:
    """`is_shared`: for several workers. Raises OSError."""
    sockets: list[socket.socket] = []
    found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    is_dual = all(family == socket.AF_INET6 for family, *_ in found)
    missing = None
    for family, *_, (ip_address, _, *scope) in dict.fromkeys(found):
        if sockets:  # they share one port, even if any port will do
            port = sockets[0].getsockname()[1]
        kind = _SharedSocket if is_shared else socket.socket
        try:
            listener = _bound(kind, family, (ip_address, port, *scope), is_dual=is_dual)
        except OSError as error:
            if error.errno not in _NO_SUCH_ADDRESS:
                raise
            missing = error
            continue
        if is_shared:  # after bind(), which therefore fails if another service uses the address
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sockets.append(listener)
    if missing and not sockets:
        raise missing
    return sockets


class _SharedSocket(socket.socket):
    """A socket that each worker opens again for the same address (SO_REUSEPORT), so that Linux
    distributes the connections. On one shared socket, the worker that wakes first accepts most."""

    def __reduce__(self) -> Any:
        is_dual = self.family == socket.AF_INET6 and not self.getsockopt(
            socket.IPPROTO_IPV6, socket.IPV6_V6ONLY
        )
        return _bind_again, (self.family, self.getsockname(), is_dual)


def _bind_again(family: int, address: Any, is_dual: bool) -> socket.socket:  # noqa: FBT001 - pickled
    return _bound(socket.socket, family, address, is_dual=is_dual, joins_others=True)


def _bound(
    kind: type[socket.socket],
    family: int,
    address: Any,
    *,
    is_dual: bool,
    joins_others: bool = False,
) -> socket.socket:
    listener = kind(family, socket.SOCK_STREAM)
    try:
        if os.name == "posix":  # on Windows, another service could then take the port
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, not is_dual)
        if joins_others:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listener.bind(address)
    except OSError:
        listener.close()
        raise
    return listener
