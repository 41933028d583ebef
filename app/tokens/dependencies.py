"""What a route may ask for about the bearer token of its request."""

import re
from collections.abc import Callable
from datetime import datetime
from typing import Annotated

from fastapi import Depends, Request
from fastapi.security import OAuth2PasswordBearer
from starlette.requests import HTTPConnection
from starlette.types import Scope

from app.tokens.errors import InvalidTokenError, MissingTokenError
from app.tokens.live import LiveKeys
from app.tokens.service import Tokens


def bearer_token(scope: Scope) -> str:
    """The token of an ASGI request. Raises MissingTokenError and InvalidTokenError."""
    values = [value for name, value in scope["headers"] if name == b"authorization"]
    if not values:
        raise MissingTokenError
    words = re.split(" +", values[0].decode("latin-1"))  # RFC 6750, 2.1: 1*SP
    if len(values) > 1 or len(words) > 2:
        raise InvalidTokenError
    if len(words) == 2 and words[0].lower() != "bearer":
        raise MissingTokenError  # Basic and the like: not our kind of credential
    return words[-1]


class _BearerToken(OAuth2PasswordBearer):
    """The token in the Authorization header: `Bearer <jwt>`, any case, or the bare JWT."""

    async def __call__(self, request: HTTPConnection) -> str:
        return bearer_token(request.scope)


_BEARER = _BearerToken(
    tokenUrl="token",
    scheme_name="Password",
    description="Log in here with username and password; leave the client fields empty.",
)


async def _now(request: Request) -> datetime:
    clock: Callable[[], datetime] = request.app.state.clock
    return clock()


async def _tokens(request: Request) -> Tokens:
    tokens: Tokens = request.app.state.tokens
    return tokens


NowDep = Annotated[datetime, Depends(_now)]
TokensDep = Annotated[Tokens, Depends(_tokens)]


async def _keys(request: Request) -> LiveKeys:
    keys: LiveKeys = request.app.state.keys
    return keys


LiveKeysDep = Annotated[LiveKeys, Depends(_keys)]
BearerToken = Annotated[str, Depends(_BEARER)]
