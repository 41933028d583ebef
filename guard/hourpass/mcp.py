"""MCP servers: sessions and tools know the guard's user. Needs `mcp` 2 (the extra `mcp`).

The SDK refuses, with 404, a request that continues the session of another user. It compares the
users only if it knows them: from `HourpassTokenVerifier`, or from `SessionBinding`.
"""

from typing import Any

from mcp.server.auth.middleware.auth_context import AuthContextMiddleware
from mcp.server.auth.middleware.bearer_auth import AuthenticatedUser
from mcp.server.auth.provider import AccessToken
from starlette.authentication import AuthCredentials

from hourpass.errors import InvalidTokenError
from hourpass.guard.asgi import ASGIApp, Receive, Scope, Send
from hourpass.guard.bearer import bearer_token
from hourpass.guard.guard import Guard
from hourpass.user import User


class HourpassTokenVerifier:
    """For `MCPServer(token_verifier=…, auth=…)`.

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


class SessionBinding:
    """Binds each session to the user who began it. Goes inside `guard.middleware`:
    `guard.middleware(SessionBinding(server.streamable_http_app()))`.

    In tools, `get_access_token()` of the SDK has the user.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = AuthContextMiddleware(app)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        user = scope.get("state", {}).get("user")
        if isinstance(user, User):  # not on public paths
            token = AccessToken(**access_token_fields(user, bearer_token(scope["headers"])))
            scope["user"] = AuthenticatedUser(token)
            scope["auth"] = AuthCredentials(token.scopes)
        await self._app(scope, receive, send)


def access_token_fields(user: User, token: str) -> dict[str, Any]:
    """The SDK compares client, issuer and subject, so a renewed token continues the session."""
    return {
        "token": token,
        "client_id": str(user.id),
        "scopes": sorted(user.scopes),
        "expires_at": int(user.expires_at.timestamp()),
        "subject": str(user.id),
        "claims": {"sub": str(user.id), "preferred_username": user.username},
    }
