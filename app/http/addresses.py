"""The public URLs of the service: below the path of ISSUER, if it has one.

A proxy that serves the service below a path removes that path before it passes requests on.
"""

from urllib.parse import urlsplit


def path_prefix(issuer: str) -> str:
    """The path of ISSUER without its last slash, such as `/auth`. Usually empty."""
    parts = urlsplit(issuer)
    return parts.path.rstrip("/") if parts.scheme in ("http", "https") else ""


def public_path(issuer: str, path: str) -> str:
    """The path of a public URL, on the service's host."""
    return path_prefix(issuer) + path


def public_url(issuer: str, path: str) -> str:
    return issuer.rstrip("/") + path


def is_well_known_suffix(issuer: str, path: str) -> bool:
    """Whether a path after `/.well-known/NAME` is the one of this issuer. Standards insert the name
    between the host and the path of the issuer (RFC 8414, 3.1; RFC 9728, 3.1)."""
    return path != "" and path.rstrip("/") == path_prefix(issuer).lstrip("/")
