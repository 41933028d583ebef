from app.errors import ConflictError, ForbiddenError, NotFoundError


class UserExistsError(ConflictError):
    """The name is taken, in this or an equivalent spelling. `user_id` says whose it is."""

    error = "user_exists"
    message = "User already exists"


class RegistrationClosedError(ForbiddenError):
    """The same whatever the name: it does not tell which ones exist."""

    error = "registration_closed"
    message = "Only an administrator creates users here"


class LastAdminError(ConflictError):
    """Nobody would be left who could make another one."""

    error = "last_admin"
    message = "The last enabled administrator cannot be taken away"


class UserNotFoundError(NotFoundError):
    error = "user_not_found"
    message = "User not found"
