from typing import ClassVar

from app.errors import ApiError, ConflictError, ForbiddenError, NotFoundError


class SecondFactorNotFoundError(NotFoundError):
    error = "second_factor_not_found"
    message = "There is no second factor, or none that waits to be confirmed"


class SecondFactorExistsError(ConflictError):
    error = "second_factor_exists"
    message = "There is a second factor already. Remove it first"


class SecondFactorRequiredError(ForbiddenError):
    """The token is valid, so it is not 401 as at a login: clients would discard the token."""

    error = "mfa_required"
    message = "A second factor is needed: send its code as otp"


class WrongCodeError(ForbiddenError):
    error = "wrong_code"
    message = "The code is wrong, or was used before"


class TooManyCodesError(ApiError):
    """Only whoever knows the password, or holds a token, gets to hear it."""

    status = 429
    error = "too_many_codes"
    message = "Too many wrong codes. Use a recovery code, or wait"
    headers: ClassVar = {"Retry-After": "3600"}  # by then one is forgiven (service.py)
