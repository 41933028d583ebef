"""Refused logins: as the contract has them for JSON, as RFC 6749, 5.2 has them for forms."""

from app.credentials.second_factors.errors import SecondFactorRequiredError
from app.errors import OAuthError, UnauthorizedError


class InvalidCredentialsError(UnauthorizedError):
    """One answer for an unknown user, a wrong password and a disabled user."""

    error = "invalid_grant"
    message = "Invalid credentials"


class InvalidGrantError(OAuthError):
    error = "invalid_grant"
    message = "Invalid credentials"


class MfaRequiredError(UnauthorizedError):
    """The password was right, so whoever hears this may know that there is a second factor."""

    error = SecondFactorRequiredError.error
    message = SecondFactorRequiredError.message


class MfaRequiredByFormError(OAuthError):
    error = MfaRequiredError.error
    message = MfaRequiredError.message


class InvalidRefreshTokenError(OAuthError):
    """Unknown, expired, ended, or used before: in the last case its session has ended as well."""

    error = "invalid_grant"
    message = "Invalid refresh token"


class UnsupportedGrantTypeError(OAuthError):
    error = "unsupported_grant_type"
    message = "The grant_type must be password or refresh_token"
