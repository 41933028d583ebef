from app.errors import ConflictError, NotFoundError


class UserExistsError(ConflictError):
    """The name is taken, in this or an equivalent spelling. `user_id` says whose it is."""

    error = "user_exists"
    message = "User already exists"


class UserNotFoundError(NotFoundError):
    error = "user_not_found"
    message = "User not found"
