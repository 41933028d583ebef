"""Errors of logins: 401 for JSON, and 400 for forms (RFC 6749, 5.2)."""

from typing import ClassVar

from app.credentials.second_factors.errors import SecondFactorRequiredError
from app.errors import OAuthError, UnauthorizedError


class InvalidCredentialsError(UnauthorizedError):
    """One error for an unknown user, a wrong password and a disabled user."""

    error = "invalid_grant"
    message = "Invalid credentials"


class InvalidGrantError(OAuthError):
    error = "invalid_grant"
    message = "Invalid credentials"


class MfaRequiredError(UnauthorizedError):
    """Sent only after the right password, so it tells nobody else who has a second factor."""

    error = SecondFactorRequiredError.error
    message = SecondFactorRequiredError.message


class MfaRequiredByFormError(OAuthError):
    error = MfaRequiredError.error
    message = MfaRequiredError.message


class InvalidRefreshTokenError(OAuthError):
    """Unknown, expired, revoked or used before. In the last case its session is revoked as well."""

    error = "invalid_grant"
    message = "Invalid refresh token"


class InvalidClientError(UnauthorizedError):
    """RFC 6749, 5.2. One response for an unknown account and for every key that is not valid."""

    error = "invalid_client"
    message = "Invalid client"
    headers: ClassVar = {"WWW-Authenticate": 'Basic realm="hourpass", charset="UTF-8"'}

    def body(self) -> dict[str, object]:
        return {**super().body(), "error_description": self.message}


class InvalidSubjectTokenError(OAuthError):
    """RFC 8693, 2.2.2. One response for every key that is not valid, so that it reveals nothing."""

    error = "invalid_request"
    message = "Invalid subject_token"


class UnsupportedGrantTypeError(OAuthError):
    error = "unsupported_grant_type"
    message = (
        "The grant_type must be password, refresh_token, client_credentials or that of a token "
        "exchange"
    )


class InvalidScopeError(OAuthError):
    """Otherwise the client would take the token for one with the scopes that it asked for."""

    error = "invalid_scope"
    message = "The user has none of the requested scopes"


class TooManyScopesError(OAuthError):
    """A pattern such as `predict:*` covers any number of scopes that a client can ask for."""

    error = InvalidScopeError.error
    message = "An access token with the requested scopes could be too long. Request fewer"
