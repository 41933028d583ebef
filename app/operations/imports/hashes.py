"""Hashes of other systems in the formats that imported_hashes.py reads."""

import base64
import re

from app.security import imported_hashes

# Werkzeug's, which Flask uses.
_WERKZEUG_PBKDF2 = re.compile(
    r"pbkdf2:(?P<digest>sha1|sha256|sha512):(?P<rounds>\d{1,10})\$(?P<salt>[^$]*)\$(?P<value>[0-9a-f]+)"
)
_WERKZEUG_SCRYPT = re.compile(
    r"scrypt:(?P<n>\d{1,9}):(?P<r>\d{1,4}):(?P<p>\d{1,4})\$(?P<salt>[^$]+)\$(?P<value>[0-9a-f]+)"
)


def to_storable(found: str) -> str | None:
    """The hash in a format that this service verifies, if it is of a known kind. Others stay as
    they are. None for one that no password matches."""
    if found.startswith(("!", "*")):  # Django, /etc/shadow
        return None
    if found.startswith(("argon2$argon2", "bcrypt$$2")):  # Django
        return found.removeprefix("argon2").removeprefix("bcrypt$")
    try:
        if match := _WERKZEUG_PBKDF2.fullmatch(found):
            digest: imported_hashes.Digest = match["digest"]  # type: ignore[assignment] # by the pattern
            salt, value = match["salt"].encode(), bytes.fromhex(match["value"])
            return imported_hashes.pbkdf2(digest, int(match["rounds"]), salt, value)
        if match := _WERKZEUG_SCRYPT.fullmatch(found):
            value = bytes.fromhex(match["value"])
            parameters = f"{match['salt']}${match['r']}${match['p']}"
            return f"scrypt${match['n']}${parameters}${base64.b64encode(value).decode()}"
    except ValueError:  # an odd number of digits
        pass
    return found


def argon2(  # noqa: PLR0913, PLR0917 - its parameters
    kind: str, version: int, memory_kib: int, passes: int, lanes: int, salt: bytes, value: bytes
) -> str:
    """In the PHC format."""
    encoded = "$".join(base64.b64encode(part).decode().rstrip("=") for part in (salt, value))
    parameters = f"m={memory_kib},t={passes},p={lanes}"
    return f"$argon2{kind}$v={version}${parameters}${encoded}"
