"""Looks up the addresses of a host in separate threads.

A name whose servers do not answer takes half a minute. It must delay neither connections to the
database, whose name the event loop looks up, nor the end of the process.
"""

import asyncio
import socket
import threading
from contextlib import suppress

from app.outbound_http.errors import OutboundError

MAX_LOOKUPS = 8  # at the same time


class Resolver:
    def __init__(self) -> None:
        self._lookups = 0

    async def __call__(self, host: str, port: int) -> list[str]:
        """The IP addresses, in the order in which to try them. Raises OutboundError."""
        if self._lookups >= MAX_LOOKUPS:
            raise OutboundError("name_not_found")
        loop = asyncio.get_running_loop()
        addresses: asyncio.Future[list[str]] = loop.create_future()

        def finish(found: list[str]) -> None:
            self._lookups -= 1
            if not addresses.done():  # else the request has timed out
                addresses.set_result(found)

        def look_up() -> None:
            found = _look_up(host, port)
            with suppress(RuntimeError):  # the event loop has ended
                loop.call_soon_threadsafe(finish, found)

        self._lookups += 1
        threading.Thread(target=look_up, name="resolver", daemon=True).start()
        if found := await addresses:
            return found
        raise OutboundError("name_not_found")


def _look_up(host: str, port: int) -> list[str]:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return []
    return list(dict.fromkeys(str(address[0]) for *_, address in found))
