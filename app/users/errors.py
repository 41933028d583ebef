from app.errors import ConflictError, ForbiddenError, NotFoundError
from app.tokens.errors import InsufficientScopeError


class UserExistsError(ConflictError):
    """The name is taken, in this or an equivalent spelling. `user_id` says whose it is."""

    error = "user_exists"
    message = "User already exists"


class RegistrationClosedError(ForbiddenError):
    """The same whatever the name: it does not tell which ones exist."""

    error = "registration_closed"
    message = "Only an administrator creates users here"


class InvitationRequiredError(ForbiddenError):
    """The same whatever the name, as above."""

    error = "invitation_required"
    message = "Whoever registers here needs an invitation"


class LastAdminError(ConflictError):
    """Nobody would be left who could log in and make another one."""

    error = "last_admin"
    message = "The last administrator who can log in cannot be taken away"


class UserNotFoundError(NotFoundError):
    error = "user_not_found"
    message = "User not found"


class WrongPasswordError(ForbiddenError):
    """The token holds, so it is not 401: clients would take that for its end."""

    error = "wrong_password"
    message = "The password is wrong"


class SecondFactorNeededError(InsufficientScopeError):
    """With ADMIN_SECOND_FACTOR=required, so that an administrator who lacks one knows why."""

    message = "The token does not allow this. Administrators log in with a second factor"
