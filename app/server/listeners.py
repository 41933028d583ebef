"""Opens the sockets that `hourpass serve` listens on, and distributes them to the workers.

The addresses of a host name get a socket for each worker. `::` gets sockets that take IPv4
connections as well.
"""

import errno
import os
import socket
from typing import Any

# The kernel may lack IPv6, although the host's name has an IPv6 address.
_NO_SUCH_ADDRESS = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)


def bind(host: str, port: int, copies: int) -> list[socket.socket]:
    """Several sockets for one address (SO_REUSEPORT) each have a queue of their own, to which Linux
    distributes the connections. On one shared socket, the worker that wakes first accepts most.
    Raises OSError."""
    sockets: list[socket.socket] = []
    found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    is_dual = all(family == socket.AF_INET6 for family, *_ in found)
    missing = None
    for family, *_, (ip_address, _, *scope) in dict.fromkeys(found):
        if sockets:  # they share one port, even if any port will do
            port = sockets[0].getsockname()[1]
        try:
            first = _bound(family, (ip_address, port, *scope), is_dual=is_dual)
        except OSError as error:
            if error.errno not in _NO_SUCH_ADDRESS:
                raise
            missing = error
            continue
        sockets.append(first)
        if copies > 1:  # after bind(), which therefore fails if another service uses the address
            first.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sockets += [
            _bound(family, first.getsockname(), is_dual=is_dual, joins_others=True)
            for _ in range(copies - 1)
        ]
    if missing and not sockets:
        raise missing
    return sockets


def deal(listeners: list[socket.socket], workers: int) -> list[list[socket.socket]]:
    """The sockets of each worker. It listens on all addresses: on sockets of its own if there are
    enough of them, otherwise it shares them."""
    by_address: dict[Any, list[socket.socket]] = {}
    for listener in listeners:
        by_address.setdefault(listener.getsockname(), []).append(listener)
    dealt: list[list[socket.socket]] = [[] for _ in range(workers)]
    for same in by_address.values():
        for number in range(max(workers, len(same))):
            dealt[number % workers].append(same[number % len(same)])
    return dealt


def _bound(
    family: int, address: Any, *, is_dual: bool, joins_others: bool = False
) -> socket.socket:
    listener = socket.socket(family, socket.SOCK_STREAM)
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
