from app.errors import ForbiddenError


class WrongPasswordError(ForbiddenError):
    """Not a 401: the bearer token holds, and a new one would not help."""

    error = "wrong_password"
    message = "The password is wrong"
