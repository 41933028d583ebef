"""MCP servers: tools know the guard's user. Needs `mcp` 2 (the extra `mcp`).

`guard.middleware` binds each session to the user who began it (guard/mcp_user.py).
"""

from mcp.server.auth.middleware.auth_context import AuthContextMiddleware
from mcp.server.auth.provider import AccessToken

from hourpass.errors import InvalidTokenError
from hourpass.guard.guard import Guard
from hourpass.guard.mcp_user import access_token_fields


class HourpassTokenVerifier:
    """The token verifier of `MCPServer(token_verifier=…, auth=…)`.

    The SDK turns the error of an unreachable service into 500. Put `guard.middleware` around the
    app for 503.
    """

    def __init__(self, guard: Guard) -> None:
        self._guard = guard

    async def verify_token(self, token: str) -> AccessToken | None:
        """Raises ServiceUnavailableError."""
        try:
            user = await self._guard.acheck(token)
        except InvalidTokenError:
            return None
        return AccessToken(**access_token_fields(user, token))


class UserContext(AuthContextMiddleware):
    """In tools, `get_access_token()` of the SDK has the user. Goes inside `guard.middleware`:
    `guard.middleware(UserContext(server.streamable_http_app()))`."""
