"""Finds the bearer token of a request (RFC 6750, 2.1)."""

from collections.abc import Iterable

from hourpass.errors import InvalidTokenError, MissingTokenError


def parse_authorization(value: str | bytes | None) -> str:
    """The token in the value of an `Authorization` header: `Bearer <jwt>` or the bare JWT.

    Raises MissingTokenError.
    """
    if isinstance(value, bytes):
        value = value.decode("latin-1")  # RFC 9110, 5.5: a token with other characters is invalid
    scheme, _, token = (value or "").strip(" \t").partition(" ")
    if not scheme:
        raise MissingTokenError
    if not token:
        return scheme
    if scheme.lower() != "bearer":
        raise MissingTokenError  # another scheme, such as Basic
    return token.lstrip(" ")  # RFC 6750, 2.1: 1*SP


def bearer_token(headers: Iterable[tuple[bytes, bytes]]) -> str:
    """The token in the headers of an ASGI request.

    Raises MissingTokenError and InvalidTokenError.
    """
    values = [value for name, value in headers if name == b"authorization"]
    if not values:
        raise MissingTokenError
    if len(values) > 1:  # a proxy in front of the app may have checked the other one
        raise InvalidTokenError
    return parse_authorization(values[0])
