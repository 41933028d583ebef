from app.errors import ForbiddenError


class InvalidCodeError(ForbiddenError):
    """One response for codes that are unknown, used, expired or for another user."""

    error = "invalid_code"
    message = "The code is wrong, already used or expired"
