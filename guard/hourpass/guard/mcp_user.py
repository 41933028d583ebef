"""Names the guard's user to the MCP SDK, version 2, which then binds sessions to users.

The SDK refuses, with 404, a request that continues the session of another user, if it knows both.
"""

import sys
from collections.abc import Callable
from functools import cache
from typing import Any

from hourpass.guard.asgi import Scope
from hourpass.user import User

_SDK = "mcp.server.auth.middleware.bearer_auth"


def name_user(scope: Scope, user: User, credential: str) -> None:
    """Put the user into the scope of a request, if the process has loaded the SDK."""
    if _SDK in sys.modules and (name := _naming()):
        name(scope, access_token_fields(user, credential))


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


@cache
def _naming() -> Callable[[Scope, dict[str, Any]], None] | None:
    """The function that does it, or None for another version of the SDK."""
    try:
        from mcp.server.auth.middleware.bearer_auth import AuthenticatedUser
        from mcp.server.auth.provider import AccessToken
        from starlette.authentication import AuthCredentials
    except ImportError:
        return None

    def name(scope: Scope, fields: dict[str, Any]) -> None:
        token = AccessToken(**fields)
        scope["user"] = AuthenticatedUser(token)
        scope["auth"] = AuthCredentials(token.scopes)

    return name
