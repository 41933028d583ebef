"""Reads the URLs of outgoing requests strictly. Each host has one spelling, so that no two programs
can take it for different ones."""

import re
from ipaddress import IPv4Address, IPv6Address
from typing import NamedTuple

MAX_LENGTH = 2000

_PORTS = {"https": 443, "http": 80}
_CHARACTERS = re.compile(r"[A-Za-z0-9!$&'()*+,;=:@/?\[\]._~%-]+")  # of RFC 3986, without `#`
_HOST_AND_PORT = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::([1-9][0-9]{0,4}))?")
_LABEL = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?")
# Browsers take a name that ends like this for an IPv4 address in some notation.
_ENDS_IN_A_NUMBER = re.compile(r"(.*\.)?([0-9]+|0x[0-9a-f]*)")


class Url(NamedTuple):
    """`host` is a name in lower case, or an IP address without brackets. `target` is the path with
    the query."""

    scheme: str
    host: str
    port: int
    target: str

    @property
    def host_header(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _PORTS[self.scheme] else f"{host}:{self.port}"


def parse_url(text: str) -> Url:
    """Raises ValueError, whose text says what to write and does not quote the URL: it may contain a
    secret."""
    if len(text) > MAX_LENGTH:
        raise ValueError(f"must have at most {MAX_LENGTH} characters")
    scheme, separator, rest = text.partition("://")
    scheme = scheme.lower()
    if not separator or scheme not in _PORTS:
        raise ValueError("must begin with https://")
    if "#" in rest:
        raise ValueError("must not have a fragment")
    if not _CHARACTERS.fullmatch(rest):
        raise ValueError("must be written in ASCII, with other characters percent-encoded")
    authority = re.split("[/?]", rest, maxsplit=1)[0]
    if "@" in authority:
        raise ValueError("must not have a user or password")
    match = _HOST_AND_PORT.fullmatch(authority)
    if not match or int(match[2] or 1) > 65535:
        raise ValueError("must have a host, and a port between 1 and 65535, if any")
    target = rest[len(authority) :]
    if not target.startswith("/"):
        target = f"/{target}"
    return Url(scheme, _normalize_host(match[1].lower()), int(match[2] or _PORTS[scheme]), target)


def _normalize_host(host: str) -> str:
    try:
        if host.startswith("["):
            return str(IPv6Address(host[1:-1]))
        if _ENDS_IN_A_NUMBER.fullmatch(host):
            return str(IPv4Address(host))  # neither octal, nor hexadecimal, nor shortened
    except ValueError:
        raise ValueError("must have an IP address in its usual notation, or a name") from None
    if len(host) > 253 or not all(map(_LABEL.fullmatch, host.split("."))):
        raise ValueError("must have the name of a host, without a dot at its end")
    return host
