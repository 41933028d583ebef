"""Finds the bearer token of a request (RFC 6750, 2.1)."""

from collections.abc import Iterable

from hourpass.guard.invalid_tokens import invalid_token, missing_token


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
    """The token in the headers of an ASGI request.

    Raises MissingTokenError and InvalidTokenError.
    """
    values = [value for name, value in headers if name == b"authorization"]
    if not values:
        raise missing_token("no Authorization header")
    if len(values) > 1:  # a proxy in front of the app may have checked the other one
        raise invalid_token("several Authorization headers")
    return parse_authorization(values[0])
