from typing import ClassVar

from app.errors import ConflictError, ForbiddenError, NotFoundError
from app.tokens.errors import InsufficientScopeError


class UserExistsError(ConflictError):
    """The username exists in this or an equivalent spelling. `user_id` is that user's id."""

    error = "user_exists"
    message = "User already exists"
    example: ClassVar = {"user_id": 4}


class RegistrationClosedError(ForbiddenError):
    """Raised for every username, so that it does not reveal which ones exist."""

    error = "registration_closed"
    message = "Registration is closed"


class InvitationRequiredError(ForbiddenError):
    """Raised for every username, as above."""

    error = "invitation_required"
    message = "An invitation is required"


class LastAdminError(ConflictError):
    """Without an administrator who can log in, no other one could be created over HTTP."""

    error = "last_admin"
    message = "Not allowed for the last administrator who can log in"


class ServiceAccountError(ConflictError):
    error = "service_account"
    message = "A service account has no password, no second factor and no e-mail address"


class UserNotFoundError(NotFoundError):
    error = "user_not_found"
    message = "User not found"


class WrongPasswordError(ForbiddenError):
    """403, since the token is valid: a 401 would make clients discard it."""

    error = "wrong_password"
    message = "Wrong password"


class SecondFactorNeededError(InsufficientScopeError):
    """With ADMIN_SECOND_FACTOR=required, for administrators without a second factor."""

    message = (
        "The token needs the scope admin. Administrators must log in with a second factor to get it"
    )
