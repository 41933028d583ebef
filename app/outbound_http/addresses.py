"""Which IP addresses outgoing requests may reach: public ones, and those that the operator allows.

Other addresses lead to the host itself, to its neighbours and to the metadata services of clouds,
which trust every program that can reach them.
"""

from collections.abc import Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

from app.configuration.types import Network

Address = IPv4Address | IPv6Address

# Addresses of hosts are allocated only here (RFC 4291, 2.4). Outside are loopback, unspecified,
# link-local, unique local, multicast and IPv4-compatible ones.
_UNICAST = ip_network("2000::/3")
_TRANSLATED = ip_network("64:ff9b::/96")  # NAT64: the last four bytes are an IPv4 address
_NOT_PUBLIC = tuple(
    map(
        ip_network,
        (
            "100.64.0.0/10",  # shared by customers of a provider
            "168.63.129.16/32",  # metadata of Azure
            "192.88.99.0/24",  # 6to4 relays
            "2001::/23",  # Teredo, ORCHID and others
            "2001:db8::/32",  # documentation
            "2002::/16",  # 6to4: contains an IPv4 address
            "3fff::/20",  # documentation
        ),
    )
)


def parse_address(text: str) -> Address | None:
    """None if the text is not an IP address. Returns the IPv4 address of an IPv4-mapped one."""
    try:
        address = ip_address(text)
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return mapped or address


def is_allowed(address: Address, networks: Sequence[Network]) -> bool:
    return is_in_any(address, networks) or is_public(address)


def is_in_any(address: Address, networks: Sequence[Network]) -> bool:
    return any(address in network for network in networks)


def is_public(address: Address) -> bool:
    if isinstance(address, IPv6Address):
        if address in _TRANSLATED:
            return is_public(IPv4Address(address.packed[-4:]))
        if address.scope_id or address not in _UNICAST:
            return False
    if any(address in network for network in _NOT_PUBLIC):
        return False
    return address.is_global and not address.is_multicast and not address.is_reserved
