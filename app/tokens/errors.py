"""The errors of RFC 6750, 3.1, and of RFC 8707, 2."""

from typing import ClassVar

from app.errors import ForbiddenError, OAuthError, UnauthorizedError


class MissingTokenError(UnauthorizedError):
    """No token was sent, so the challenge names no error (RFC 6750, 3.1)."""

    error = "missing_token"
    message = "A bearer token is required"


class InvalidTokenError(UnauthorizedError):
    """One response for forged, expired and revoked tokens, so that it reveals nothing."""

    error = "invalid_token"
    message = "Invalid token"
    headers: ClassVar = {"WWW-Authenticate": 'Bearer realm="hourpass", error="invalid_token"'}


class InsufficientScopeError(ForbiddenError):
    """The token is valid but lacks a scope that the challenge names."""

    error = "insufficient_scope"
    message = "The token needs the scope admin"

    def __init__(self, *needed: str) -> None:
        super().__init__()
        self.needed = needed or ("admin",)

    def describe(self) -> str:
        scopes = f"scope{'s' if len(self.needed) > 1 else ''} {' '.join(self.needed)}"
        return self.message.replace("scope admin", scopes)

    def header_fields(self) -> dict[str, str]:
        scope = " ".join(self.needed)
        challenge = f'Bearer realm="hourpass", error="insufficient_scope", scope="{scope}"'
        return {"WWW-Authenticate": challenge}


class LimitedTokenError(ForbiddenError):
    """The token was issued with less than all rights of the account, or for an API key."""

    error = InsufficientScopeError.error
    message = "This needs a token from a login with all rights of the account"
    headers: ClassVar = {"WWW-Authenticate": 'Bearer realm="hourpass", error="insufficient_scope"'}


class InvalidTargetError(OAuthError):
    """Also for a refresh that asks for another audience than its session has."""

    error = "invalid_target"
    message = "The resource must be one absolute URI without a fragment, the same at each refresh"
