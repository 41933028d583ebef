"""The rules for the networks from which a key works. Pure."""

import re
from ipaddress import IPv6Network, ip_address, ip_network

from app.configuration.types import Network

# Python also reads netmasks, zones and other spellings.
_CIDR = re.compile(r"([0-9A-Fa-f.:]{2,45})/(0|[1-9][0-9]{0,2})")
_EXAMPLE = "Must be in CIDR notation, such as 192.0.2.0/24 or 2001:db8::/32"


def parse_network(text: str) -> Network:
    """Raises ValueError, whose text says what to write instead."""
    match = _CIDR.fullmatch(text)
    if match is None:
        raise ValueError(_with_prefix(text) or _EXAMPLE)
    try:
        network = ip_network(text, strict=False)
    except ValueError:
        raise ValueError(_EXAMPLE) from None
    if isinstance(network, IPv6Network) and network.network_address.ipv4_mapped:
        raise ValueError("Write IPv4 networks as such, for example 192.0.2.0/24")
    if ip_address(match[1]) != network.network_address:
        raise ValueError(f"Write {network}: the address has bits beyond its prefix")
    return network


def _with_prefix(text: str) -> str | None:
    """What to write for an address without a prefix."""
    try:
        address = ip_address(text)
    except ValueError:
        return None
    return f"Write {address}/{address.max_prefixlen} for a single address"
