"""IP addresses of clients, behind proxies or not, and their networks."""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from math import inf

from app.configuration.types import Network

MAX_HOPS = 10

# Headers of proxies. Only the first one is read.
FORWARDING_HEADERS = ("X-Forwarded-For", "Forwarded", "X-Real-IP")
WARNING_INTERVAL = 3600  # seconds
_NOT_TRUSTED = (
    "Ignored %s from an address that is not in TRUSTED_PROXIES. "
    "If this is your proxy, add %s to TRUSTED_PROXIES"
)
_NOT_READ = (
    "Ignored %s, since only X-Forwarded-For is read. "
    "If %s is your proxy, let it send X-Forwarded-For, and add it to TRUSTED_PROXIES"
)
_WARNINGS = dict(zip(FORWARDING_HEADERS, (_NOT_TRUSTED, _NOT_READ, _NOT_READ), strict=True))

Address = IPv4Address | IPv6Address

_log = logging.getLogger("hourpass")


def client_ip_address(peer: str, forwarded: Sequence[str], trusted: Sequence[Network]) -> str:
    """The nearest address that is not one of the trusted proxies.

    Each proxy appends its client's address to X-Forwarded-For. Everything before the last untrusted
    address may be forged.
    """
    address = _address(peer)
    hops = [hop for line in forwarded for hop in line.split(",")][-MAX_HOPS:]
    while hops and _is_trusted(address, trusted):
        next_address = _address(hops.pop())
        if next_address is None:
            break
        address = next_address
    return str(address) if address else ""


def _is_trusted(address: Address | None, trusted: Sequence[Network]) -> bool:
    """None is a Unix socket. If there are trusted proxies, only they connect to it."""
    return bool(trusted) and (address is None or any(address in network for network in trusted))


class ProxyWarning:
    """Logs a warning if requests seem to come through a proxy that is not in TRUSTED_PROXIES.

    The service cannot tell the clients of such a proxy apart: it limits their logins together or,
    if the proxy is on loopback, not by IP address at all. There is at most one warning an hour per
    process, since any client can send these headers. Their values are not logged. `clock` is
    monotonic, in seconds.
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
        # A Unix socket has no address. It is trusted as soon as any address is.
        _log.warning(_WARNINGS[name], name, address or "127.0.0.1")


@lru_cache(maxsize=1024)
def _address(text: str) -> Address | None:
    """None for a Unix socket, and for any text that is not an IP address."""
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


def is_in_networks(host: str, networks: tuple[str, ...]) -> bool:
    """Whether the client is in one of the networks, in CIDR notation. A Unix socket is not."""
    address = _address(host)
    return address is not None and any(address in network for network in _parsed(networks))


@lru_cache(maxsize=1024)
def _parsed(networks: tuple[str, ...]) -> tuple[Network, ...]:
    """Empty if one of them is invalid: with an HS256 secret, APIs can sign tokens too."""
    try:
        return tuple(ip_network(network) for network in networks)
    except ValueError:
        return ()


@lru_cache(maxsize=1024)
def network_of(host: str) -> str:
    """An IPv4 address, or the /64 of an IPv6 address: each customer of a provider has at least a
    /64. Empty for a Unix socket."""
    address = _address(host)
    if isinstance(address, IPv6Address):
        return str(ip_network((address, 64), strict=False))
    return str(address or "")
