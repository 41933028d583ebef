"""What FastAPI's routes depend on. Only imported where FastAPI is installed."""

import re
from abc import abstractmethod
from collections.abc import Awaitable, Callable
from typing import Annotated

from fastapi import HTTPException, Security, WebSocketException
from fastapi.openapi.models import HTTPBearer
from fastapi.security.base import SecurityBase
from starlette.requests import HTTPConnection
from starlette.status import WS_1008_POLICY_VIOLATION

from hourpass.errors import GuardError, InsufficientScopeError
from hourpass.guard.token_verifier import bearer_token
from hourpass.user import User

_SCOPE = re.compile(r"[\x21\x23-\x5B\x5D-\x7E]+")  # RFC 6749, 3.3


class RouteDependency(SecurityBase):
    """A SecurityBase, so that the routes that depend on it say so in their OpenAPI."""

    scheme_name = "Hourpass"

    def __init__(self) -> None:
        self.model = HTTPBearer(bearerFormat="JWT", description="A token of the Hourpass service")

    @abstractmethod
    async def acheck(self, token: str) -> User: ...

    # FastAPI pays for each parameter and each dependency of a dependency: here is one and none.
    async def __call__(self, connection: HTTPConnection) -> User:
        try:
            return await self.acheck(bearer_token(connection.scope["headers"]))
        except GuardError as error:
            raise _refusal(error, connection) from None

    def require(self, *scopes: str) -> Callable[..., Awaitable[User]]:
        """A dependency like the guard itself that also refuses, with 403, tokens without all of
        these scopes."""
        if not scopes or not all(map(_SCOPE.fullmatch, scopes)):
            raise ValueError("require() takes scopes, each without spaces")

        async def user_with_scopes(
            connection: HTTPConnection, user: Annotated[User, Security(self, scopes=scopes)]
        ) -> User:
            if not user.scopes.issuperset(scopes):
                raise _refusal(InsufficientScopeError(*scopes), connection)
            return user

        return user_with_scopes


def _refusal(error: GuardError, connection: HTTPConnection) -> Exception:
    if connection.scope["type"] == "websocket":  # refused before it is accepted
        return WebSocketException(WS_1008_POLICY_VIOLATION, str(error))
    return HTTPException(error.status, str(error), error.headers())
