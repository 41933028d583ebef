"""Who calls, and from where: shown to the owner of a session, written beside every deed."""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from math import inf
from typing import Annotated, Any

from fastapi import Depends, Request

from app.settings import Network

MAX_HOPS = 10

# What proxies send. Only the first is read.
FORWARDING_HEADERS = ("X-Forwarded-For", "Forwarded", "X-Real-IP")
WARNING_INTERVAL = 3600  # seconds
_UNNAMED = (
    "%s came from an address that TRUSTED_PROXIES does not name, and was ignored. "
    "If this is your proxy, add %s to TRUSTED_PROXIES"
)
_UNREAD = (
    "%s came without X-Forwarded-For, which alone is read. "
    "If %s is your proxy, let it send X-Forwarded-For, and name it in TRUSTED_PROXIES"
)
_UNUSED = dict(zip(FORWARDING_HEADERS, (_UNNAMED, _UNREAD, _UNREAD), strict=True))

Address = IPv4Address | IPv6Address

_log = logging.getLogger("hourpass")


@dataclass(slots=True)
class Caller:
    address: str = ""
    user_agent: str = ""
    languages: str = ""  # Accept-Language (RFC 9110, 12.5.4), for what is mailed
    user_id: int | None = None  # once a bearer token has been verified, or a password


def caller_of(request: Request) -> Caller:
    """The same one for all of a request."""
    state: dict[str, Any] = request.scope.setdefault("state", {})
    if "caller" not in state:
        peer = request.client.host if request.client else ""
        headers = request.headers
        trusted: Sequence[Network] = request.app.state.settings.trusted_proxies
        address = first_untrusted(peer, headers.getlist("x-forwarded-for"), trusted)
        proxy_warning: ProxyWarning = request.app.state.proxy_warning
        # Plain uvicorn has put the client in the place of its proxy, and says so by port 0.
        if request.client is None or request.client.port != 0:
            proxy_warning.check(peer, headers, trusted)
        state["caller"] = Caller(
            address, headers.get("user-agent", "")[:200], headers.get("accept-language", "")[:100]
        )
    caller: Caller = state["caller"]
    return caller


def first_untrusted(peer: str, forwarded: Sequence[str], trusted: Sequence[Network]) -> str:
    """The nearest address that is none of our proxies'. Each of those has added, at the end of
    X-Forwarded-For, who called it; what stands before the first stranger anybody may have written.
    """
    address = _address(peer)
    hops = [hop for line in forwarded for hop in line.split(",")][-MAX_HOPS:]
    while hops and _is_trusted(address, trusted):
        further = _address(hops.pop())
        if further is None:
            break
        address = further
    return str(address) if address else ""


def _is_trusted(address: Address | None, trusted: Sequence[Network]) -> bool:
    """None is a Unix socket: if there is any proxy, it is the only one that can be there."""
    return bool(trusted) and (address is None or any(address in network for network in trusted))


class ProxyWarning:
    """Says in the log that there seems to be a proxy whose clients cannot be told apart: logins are
    then limited for all of them together or, on loopback, not limited by address at all.

    One line an hour for each process, since anybody can send these headers. Their values, which
    anybody can choose, are not logged. `clock` counts seconds and is never set back.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._silent_until = -inf

    def check(self, peer: str, headers: Mapping[str, str], trusted: Sequence[Network]) -> None:
        name = next((name for name in FORWARDING_HEADERS if name.lower() in headers), None)
        address = _address(peer)
        if name is None or (name == FORWARDING_HEADERS[0] and _is_trusted(address, trusted)):
            return
        now = self._clock()
        if now < self._silent_until:
            return
        self._silent_until = now + WARNING_INTERVAL
        # Any address admits a Unix socket, which has none.
        _log.warning(_UNUSED[name], name, address or "127.0.0.1")


def _address(text: str) -> Address | None:
    """None for a Unix socket, which has none, and for anything that is none."""
    text = text.strip()
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:  # a port, which some proxies add
        text = text.partition(":")[0]
    try:
        address = ip_address(text.partition("%")[0])
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


@lru_cache(maxsize=1024)
def network_of(host: str) -> str:
    """An IPv4 address or the first 64 bits of an IPv6 one, since that many are one subscriber's.
    Empty for a Unix socket."""
    address = _address(host)
    if isinstance(address, IPv6Address):
        return str(ip_network((address, 64), strict=False))
    return str(address or "")


async def _caller(request: Request) -> Caller:
    return caller_of(request)


CallerDep = Annotated[Caller, Depends(_caller)]
