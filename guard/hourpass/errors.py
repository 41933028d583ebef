"""The errors of this package, as a tree.

GuardError
├── InvalidRequestError      400  the request does not name the model in a way that is unambiguous
├── ContentTooLargeError     413  the body is too large to look for the name of the model
├── MissingTokenError        401  the request has no token
├── InvalidTokenError        401  the token is forged, expired or revoked, or its user was removed
├── InsufficientScopeError   403  the token is valid, but lacks a scope
├── ServiceUnavailableError  503  the guard cannot tell whether the token is valid
└── LoginError                    the service refuses this username, password or code
"""

import re
from typing import ClassVar

RETRY_AFTER_SECONDS = 2

_SCOPE = re.compile(r"[\x21\x23-\x5B\x5D-\x7E]+")  # RFC 6749, 3.3
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


class InvalidRequestError(GuardError):
    status = 400
    code = "invalid_request"
    message = "The request is malformed"


class ContentTooLargeError(GuardError):
    status = 413
    code = "content_too_large"
    message = "The body is too large"


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

    @property
    def scope(self) -> str:
        """The scopes as one text. A scope with a character that no scope has is left out: a name in
        it may come from the caller, and this goes into a header."""
        return " ".join(filter(_SCOPE.fullmatch, self.scopes))

    def headers(self) -> dict[str, str]:
        needed = f', scope="{self.scope}"' if self.scope else ""
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
