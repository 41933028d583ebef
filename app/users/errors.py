from app.errors import ConflictError, NotFoundError
from app.tokens.errors import InsufficientScopeError


class UserExistsError(ConflictError):
    """The name is taken, in this or an equivalent spelling. `user_id` says whose it is."""

    error = "user_exists"
    message = "User already exists"


class UserNotFoundError(NotFoundError):
    error = "user_not_found"
    message = "User not found"


class SecondFactorNeededError(InsufficientScopeError):
    """With ADMIN_SECOND_FACTOR=required, so that an administrator who lacks one knows why."""

    message = "The token does not allow this. Administrators log in with a second factor"
