from app.errors import ForbiddenError


class InvalidCodeError(ForbiddenError):
    """One answer for a code that was never issued, was used, is too old, or is somebody else's."""

    error = "invalid_code"
    message = "The code is wrong, was used before, or is too old"
