"""The length of an access token. Scopes that would make it too long cannot be granted: their user
could not log in. Pure: no database, no FastAPI."""

from collections.abc import Collection
from datetime import UTC, datetime

from pydantic_core import to_json

from app.errors import InvalidRequestError
from app.settings import Settings
from app.tokens.jwt import (
    MAX_AUDIENCE_LENGTH,
    MAX_GROUPS,
    MAX_TOKEN_BYTES,
    SERVICE,
    AccessTokenRequest,
    build_claims,
)
from app.tokens.scopes import RESERVED_SCOPES
from hourpass.scopes import scope_string

_HEADER = {"alg": "RS256", "kid": "0" * 16, "typ": "at+jwt"}
_SIGNATURE_BYTES = 384  # of RS256 with the keys of store.py; those of ES256 and HS256 are shorter
_LONGEST_ID = 2**63 - 1
_LONGEST_VERSION = 2**31 - 1
_SECONDS = 10**10 - 1  # the longest time, in the year 2286


def longest_token(
    settings: Settings, scopes: Collection[str], networks: Collection[str] = ()
) -> int:
    """The bytes of the longest access token with these scopes, whichever key signs it and whichever
    user it is for. `networks` are those of an API key."""
    request = longest_request(scopes, networks)
    audience = max(
        settings.audience, "a" * MAX_AUDIENCE_LENGTH, key=lambda text: len(to_json(text))
    )
    claims = build_claims(request, settings.issuer, audience, _SECONDS, _SECONDS)
    segments = (len(to_json(_HEADER)), len(to_json(claims)), _SIGNATURE_BYTES)
    return sum(map(_base64url_length, segments)) + len("..")


def require_room(
    settings: Settings, scopes: Collection[str], networks: Collection[str] = ()
) -> None:
    """Raises InvalidRequestError if a token with these scopes could be too long."""
    length = longest_token(settings, scopes, networks)
    if length > MAX_TOKEN_BYTES:
        raise InvalidRequestError.for_field(
            "scopes",
            f"An access token with these scopes could have {length:,} bytes. "
            f"At most {MAX_TOKEN_BYTES:,} are possible",
        )


def longest_request(scopes: Collection[str], networks: Collection[str] = ()) -> AccessTokenRequest:
    return AccessTokenRequest(
        subject=str(_LONGEST_ID),
        username="\N{MATHEMATICAL BOLD SMALL A}" * 64,  # four bytes each
        token_version=_LONGEST_VERSION,
        scope=scope_string({*scopes, *RESERVED_SCOPES}),
        authenticated_at=datetime.fromtimestamp(_SECONDS - 1, UTC),
        session="0" * 8 + f".{_LONGEST_VERSION}",  # of an API key; that of a session is shorter
        methods=("pwd", "otp", "mfa"),
        kind=SERVICE,
        client_id="0" * 8,
        is_limited=True,
        groups=(f"{_LONGEST_ID}.{_LONGEST_VERSION}",) * MAX_GROUPS,
        networks=tuple(networks),
    )


def _base64url_length(size: int) -> int:
    """Without padding."""
    return (size * 4 + 2) // 3
