"""Dependencies for the bearer token of a request, and for the keys that verify it."""

from typing import Annotated

from fastapi import Depends, Request
from fastapi.security import OAuth2PasswordBearer
from starlette.requests import HTTPConnection
from starlette.types import Scope

from app.tokens.errors import InvalidTokenError, MissingTokenError
from app.tokens.jwt import AccessTokens
from app.tokens.key_refresher import KeyRefresher
from app.tokens.scopes import SCOPE_DESCRIPTIONS
from app.tokens.signing_keys.keys import Keyring


def bearer_token(scope: Scope) -> str:
    """The token of an ASGI request. Raises MissingTokenError and InvalidTokenError."""
    headers: list[tuple[bytes, bytes]] = scope["headers"]
    values = [value for name, value in headers if name == b"authorization"]
    if not values:
        raise MissingTokenError
    # Not every server removes the white space around a value (RFC 9110, 5.5).
    scheme, _, token = values[0].strip(b" \t").rpartition(b" ")
    scheme = scheme.rstrip(b" ")  # RFC 6750, 2.1: 1*SP
    if len(values) > 1 or b" " in scheme:
        raise InvalidTokenError
    if scheme and scheme.lower() != b"bearer":
        raise MissingTokenError  # another kind of credential, such as Basic
    return token.decode("latin-1")


class _BearerToken(OAuth2PasswordBearer):
    """The token in the Authorization header: `Bearer <jwt>`, any case, or the bare JWT."""

    async def __call__(self, request: HTTPConnection) -> str:
        return bearer_token(request.scope)


_BEARER = _BearerToken(
    tokenUrl="token",
    refreshUrl="token",
    scheme_name="Password",
    scopes=SCOPE_DESCRIPTIONS,
    description="Enter your username and password. If you have a second factor, also enter its "
    "current code, or a recovery code, as client_secret. Select scopes only to limit the token to "
    "them: a limited token cannot change your account (`offline_access` alone limits nothing). The "
    "page forgets the token when you close or reload it.",
)


async def _tokens(request: Request) -> AccessTokens:
    tokens: AccessTokens = request.app.state.tokens
    return tokens


async def _current_keys(
    request: Request, tokens: Annotated[AccessTokens, Depends(_tokens)]
) -> Keyring:
    """The keys, without those that this process knows to be revoked."""
    keys: KeyRefresher = request.app.state.key_refresher
    await keys.catch_up()
    return tokens.keyring


CurrentKeys = Annotated[Keyring, Depends(_current_keys)]
TokensDep = Annotated[AccessTokens, Depends(_tokens)]


BearerToken = Annotated[str, Depends(_BEARER)]
