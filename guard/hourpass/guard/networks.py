"""Tokens that work from some networks only: whether the client is in one of them."""

from collections.abc import Iterable
from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_address,
    ip_network,
)

from hourpass.guard.invalid_tokens import invalid_token

IPAddress = IPv4Address | IPv6Address
IPNetwork = IPv4Network | IPv6Network

# A site gets at least this much, so that single addresses of IPv6 tell nothing about their number.
CLIENT_PREFIX_LENGTH = 64


def require_network(networks: Iterable[IPNetwork], address: str | None) -> None:
    """Raises InvalidTokenError unless the client's address is in one of the networks."""
    parsed = _parse(address)
    if parsed is None:
        raise invalid_token("it works from some networks only, and the client has no address")
    if not any(parsed in network for network in networks):
        raise invalid_token("it does not work from the client's network")


def client_network(address: str | None) -> IPNetwork | None:
    """The IPv4 address, or the /64 of the IPv6 address, that counts as one client."""
    parsed = _parse(address)
    if isinstance(parsed, IPv6Address):
        # An integer, because the address may have a zone.
        return ip_network((int(parsed), CLIENT_PREFIX_LENGTH), strict=False)
    return None if parsed is None else ip_network(parsed)


def _parse(address: str | None) -> IPAddress | None:
    """The IP address, or None on a Unix socket and in tests. IPv4-mapped addresses become IPv4."""
    try:
        parsed = ip_address(address or "")
    except ValueError:
        return None
    mapped = parsed.ipv4_mapped if isinstance(parsed, IPv6Address) else None
    return mapped or parsed
