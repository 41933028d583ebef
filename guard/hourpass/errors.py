"""What can be refused, drawn as a tree.

GuardError
├── MissingTokenError        401  no token came with the request
├── InvalidTokenError        401  it is forged, expired, revoked, or its user is gone
├── InsufficientScopeError   403  it holds, but does not allow this
├── ServiceUnavailableError  503  nobody can say whether it holds
└── LoginError                    the service gives no token for this name, password and code
"""

from typing import ClassVar

RETRY_AFTER_SECONDS = 2

_CHALLENGE = 'Bearer realm="hourpass"'


class GuardError(Exception):
    """`status` and `code` are those of RFC 6750, 3.1; the text is fit for the client to read."""

    status: ClassVar[int]
    code: ClassVar[str]
    message: ClassVar[str]

    def __init__(self, message: str | None = None) -> None:
        super().__init__(message or self.message)

    def headers(self) -> dict[str, str]:
        """What an HTTP answer with this status has to carry."""
        return {}


class MissingTokenError(GuardError):
    status = 401
    code = "missing_token"
    message = "A bearer token is needed"

    def headers(self) -> dict[str, str]:
        # Without an error code: none was made (RFC 6750, 3.1).
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
        """`scopes` are those that this needs."""
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
