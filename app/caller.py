"""Who calls, and from where: shown to the owner of a session, written beside every deed."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import Annotated, Any

from fastapi import Depends, Request

from app.settings import Network

MAX_HOPS = 10


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
        trusted: Sequence[Network] = request.app.state.settings.trusted_proxies
        address = first_untrusted(peer, request.headers.getlist("x-forwarded-for"), trusted)
        headers = request.headers
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
    while hops and trusted and (address is None or any(address in network for network in trusted)):
        further = _address(hops.pop())
        if further is None:
            break
        address = further
    return str(address) if address else ""


def _address(text: str) -> IPv4Address | IPv6Address | None:
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
