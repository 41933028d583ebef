"""The request headers that name the user to the app, as a proxy with `/verify` sets them.

What a caller sends under these names, or under other names that a framework takes for a user's, is
removed.
"""

import re
from collections.abc import Iterable
from urllib.parse import quote

from hourpass.user import User

USER_ID, USERNAME, KIND = "X-Auth-User-Id", "X-Auth-Username", "X-Auth-Kind"
SCOPES, KEY_ID = "X-Auth-Scopes", "X-Auth-Key-Id"
# Left out if they would be longer. Frameworks and proxies have bounds for a header.
MAX_SCOPES_BYTES = 3_800
# Those of authentication proxies.
RESERVED = (
    *(f"X-Auth-Request-{name}" for name in ("User", "Email", "Groups", "Preferred-Username")),
    *(f"X-Forwarded-{name}" for name in ("User", "Email", "Groups", "Preferred-Username")),
    *(f"Remote-{name}" for name in ("User", "Email", "Groups", "Name")),
    "X-Remote-User",
    "X-WebAuth-User",
    "X-WebAuth-Email",
)

# A field name (RFC 9110, 5.1) that is not one that every request needs.
_NAME = re.compile(r"[A-Za-z0-9-]+")
_NEEDED = frozenset({"authorization", "connection", "content_length", "host", "transfer_encoding"})
# CGI and WSGI servers take `X.Auth_User-Id` for `X-Auth-User-Id`.
_FOLD = bytes(
    ord(chr(byte).lower()) if byte < 128 and chr(byte).isalnum() else ord("_")
    for byte in range(256)
)


class IdentityHeaders:
    """`username_headers` are further headers that get the username."""

    def __init__(self, username_headers: Iterable[str] = ()) -> None:
        if isinstance(username_headers, str):
            raise TypeError("username_headers is a list of names")
        self._username_headers = tuple(username_headers)
        for name in self._username_headers:
            if not _NAME.fullmatch(name) or fold(name) in _NEEDED:
                raise ValueError(f"{name} is no header for a username")
        removed = (USER_ID, USERNAME, KIND, SCOPES, KEY_ID, *RESERVED, *self._username_headers)
        self._removed = frozenset(fold(name).encode() for name in removed)

    def are_named(self, name: bytes) -> bool:
        """Whether the caller's header must be removed."""
        return name.translate(_FOLD) in self._removed

    def of(self, user: User) -> dict[str, str]:
        """The username is UTF-8, percent-encoded (RFC 3986, 2.1)."""
        username = quote(user.username)
        headers = {USER_ID: str(user.id), USERNAME: username, KIND: user.kind}
        scopes = " ".join(sorted(user.scopes))
        if len(scopes.encode()) <= MAX_SCOPES_BYTES:
            headers[SCOPES] = scopes
        if user.key_id is not None:
            headers[KEY_ID] = user.key_id
        return {**headers, **dict.fromkeys(self._username_headers, username)}

    def in_asgi(self, user: User) -> list[tuple[bytes, bytes]]:
        return [(name.lower().encode(), value.encode()) for name, value in self.of(user).items()]


def fold(name: str) -> str:
    return name.encode().translate(_FOLD).decode()
