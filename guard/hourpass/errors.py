"""The errors of this package, as a tree.

GuardError
├── MissingTokenError        401  the request has no token
├── InvalidTokenError        401  the token is forged, expired or revoked, or its user was removed
├── InsufficientScopeError   403  the token is valid, but lacks a scope
├── ServiceUnavailableError  503  the guard cannot tell whether the token is valid
└── LoginError                    the service refuses this username, password or code
"""

from typing import ClassVar

RETRY_AFTER_SECONDS = 2

_CHALLENGE = 'Bearer realm="hourpass"'


class GuardError(Exception):
    """`status` and `code` are those of RFC 6750, 3.1. The message may be shown to the client."""

    status: ClassVar[int]
    code: ClassVar[str]
    message: ClassVar[str]

    def __init__(self, message: str | None = None) -> None:
        super().__init__(message or self.message)

    def headers(self) -> dict[str, str]:
        """Headers of an HTTP response with this status."""
        return {}


class MissingTokenError(GuardError):
    status = 401
    code = "missing_token"
    message = "A bearer token is needed"

    def headers(self) -> dict[str, str]:
        # Without an error code, because there is no token (RFC 6750, 3.1).
        return {"WWW-Authenticate": _CHALLENGE}


class InvalidTokenError(GuardError):
    status = 401
    code = "invalid_token"
    message = "Invalid token"

    def headers(self) -> dict[str, str]:
        return {"WWW-Authenticate": f'{_CHALLENGE}, error="{self.code}"'}


class InsufficientScopeError(GuardError):
    status = 403
    code = "insufficient_scope"
    message = "The token does not allow this"

    def __init__(self, *scopes: str) -> None:
        """`scopes` are those that the request needs."""
        super().__init__()
        self.scopes = scopes

    def headers(self) -> dict[str, str]:
        needed = f', scope="{" ".join(self.scopes)}"' if self.scopes else ""
        return {"WWW-Authenticate": f'{_CHALLENGE}, error="{self.code}"{needed}'}


class ServiceUnavailableError(GuardError):
    status = 503
    code = "temporarily_unavailable"
    message = "The login service cannot be reached"

    def headers(self) -> dict[str, str]:
        return {"Retry-After": str(RETRY_AFTER_SECONDS)}


class LoginError(GuardError):
    status = 401
    code = "invalid_grant"
    message = "Invalid credentials"
