"""FastMCP servers: `FastMCP(auth=HourpassTokenVerifier(guard))`. Needs `fastmcp` 4."""

from typing import Any

from fastmcp.server.auth import AccessToken, TokenVerificationError, TokenVerifier

from hourpass.errors import InvalidTokenError, ServiceUnavailableError
from hourpass.guard.guard import Guard
from hourpass.guard.mcp_user import access_token_fields


class HourpassTokenVerifier(TokenVerifier):
    """FastMCP refuses, with 404, a request that continues the session of another user.

    `arguments` are those of FastMCP's `TokenVerifier`, such as `required_scopes`.
    """

    def __init__(self, guard: Guard, **arguments: Any) -> None:
        super().__init__(**arguments)
        self._guard = guard

    async def verify_token(self, token: str) -> AccessToken | None:
        """Raises TokenVerificationError if the service is unreachable."""
        try:
            user = await self._guard.acheck(token)
        except InvalidTokenError:
            return None
        except ServiceUnavailableError as error:
            raise TokenVerificationError(str(error)) from None
        return AccessToken(**access_token_fields(user, token))
