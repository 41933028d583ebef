"""Whether HOST, ISSUER and TRUSTED_PROXIES fit together."""

from collections.abc import AsyncIterator
from ipaddress import ip_address

from app.operations.doctor.finding import Finding
from app.operations.doctor.system import System
from app.settings import Settings

_SUBJECT = "proxy"
_MOST_TRUSTED = 8  # bits of a network: a shorter prefix has strangers in it


async def check(system: System) -> AsyncIterator[Finding]:
    faults = list(find_faults(system.settings))
    for finding in faults:
        yield finding
    if not faults:
        proxies = system.settings.trusted_proxies
        text = "The service listens on this host only."
        if proxies:
            text = f"Client addresses come from {', '.join(map(str, proxies))}."
        yield Finding(_SUBJECT, "ok", text)


def find_faults(settings: Settings) -> list[Finding]:
    has_tls = settings.issuer.lower().startswith("https://")
    is_local = is_loopback(settings.host)
    found = []
    if any(network.prefixlen < _MOST_TRUSTED for network in settings.trusted_proxies):
        text = (
            "TRUSTED_PROXIES has a network with strangers, who can then pretend to have any "
            "address. Name only your proxies."
        )
        found.append(Finding(_SUBJECT, "error", text))
    if settings.trusted_proxies:
        return found
    if has_tls:
        text = (
            "ISSUER is https, so a proxy is in front, but TRUSTED_PROXIES is empty: all clients "
            "share the proxy's address and its limits. Set TRUSTED_PROXIES to its address."
        )
        found.append(Finding(_SUBJECT, "warning", text))
    elif not is_local:
        text = (
            "The service listens to the network without TLS, so passwords and tokens can be read "
            "on the way. Put a proxy with TLS in front, and set ISSUER and TRUSTED_PROXIES."
        )
        found.append(Finding(_SUBJECT, "warning", text))
    return found


def is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
