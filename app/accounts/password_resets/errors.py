from app.errors import NotFoundError


class PasswordResetNotFoundError(NotFoundError):
    """Also for a code that was used, has expired or became invalid."""

    error = "password_reset_not_found"
    message = "No forced password reset of this user is open"
