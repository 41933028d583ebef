"""Finds the token or API key of a request (RFC 6750, 2.1)."""

import re
from collections.abc import Iterable

from hourpass.api_keys import is_api_key
from hourpass.errors import MissingTokenError
from hourpass.guard.invalid_tokens import invalid_token, missing_token

_HEADER_NAME = re.compile(r"[A-Za-z0-9-]+")
_TAKEN = frozenset({"authorization", "proxy-authorization", "cookie", "host"})


class Credentials:
    """Where a request may have its token or key. `api_key_headers` are headers besides
    `Authorization` whose value is an API key."""

    def __init__(self, api_key_headers: Iterable[str] = ()) -> None:
        if isinstance(api_key_headers, str):
            raise TypeError("api_key_headers is a list of names")
        self.api_key_headers = tuple(name.lower() for name in api_key_headers)
        for name in self.api_key_headers:
            if not _HEADER_NAME.fullmatch(name) or name in _TAKEN:
                raise ValueError(f"{name} is no header for an API key")
        self._names = frozenset(name.encode() for name in self.api_key_headers)

    def get(self, headers: Iterable[tuple[bytes, bytes]]) -> str:
        """The token or key in the headers of an ASGI request.

        Raises MissingTokenError and InvalidTokenError.
        """
        if not self._names:
            return bearer_token(headers)
        headers = list(headers)
        keys = [value for name, value in headers if name in self._names]
        if not keys:
            return bearer_token(headers)
        if len(keys) > 1:
            raise invalid_token("several headers with an API key")
        key = keys[0].decode("latin-1").strip(" \t")
        if not is_api_key(key):
            raise invalid_token("no API key in the header for one")
        if any(name == b"authorization" for name, _ in headers):
            _require_same(key, headers)
        return key


def parse_authorization(value: str | bytes | None) -> str:
    """The token in the value of an `Authorization` header: `Bearer <jwt>` or the bare JWT.

    Raises MissingTokenError.
    """
    if isinstance(value, bytes):
        value = value.decode("latin-1")  # RFC 9110, 5.5: a token with other characters is invalid
    scheme, _, token = (value or "").strip(" \t").partition(" ")
    if not scheme:
        raise missing_token("no Authorization header")
    if not token:
        return scheme
    if scheme.lower() != "bearer":
        raise missing_token("the scheme is not Bearer")
    return token.lstrip(" ")  # RFC 6750, 2.1: 1*SP


def bearer_token(headers: Iterable[tuple[bytes, bytes]]) -> str:
    """The token in the `Authorization` header of an ASGI request.

    Raises MissingTokenError and InvalidTokenError.
    """
    values = [value for name, value in headers if name == b"authorization"]
    if not values:
        raise missing_token("no Authorization header")
    if len(values) > 1:  # a proxy in front of the app may have checked the other one
        raise invalid_token("several Authorization headers")
    return parse_authorization(values[0])


def _require_same(key: str, headers: Iterable[tuple[bytes, bytes]]) -> None:
    """A proxy in front of the app may have checked the other one. Raises InvalidTokenError."""
    try:
        is_same = bearer_token(headers) == key
    except MissingTokenError:  # of another scheme
        is_same = False
    if not is_same:
        raise invalid_token("Authorization and the header for an API key differ")
