from typing import ClassVar

from app.errors import ApiError, ConflictError, ForbiddenError, NotFoundError


class SecondFactorNotFoundError(NotFoundError):
    error = "second_factor_not_found"
    message = "There is no second factor, or no enrollment to confirm"


class SecondFactorExistsError(ConflictError):
    error = "second_factor_exists"
    message = "A second factor is already enabled. Remove it first"


class SecondFactorRequiredError(ForbiddenError):
    """403, unlike at a login: the token is valid, and a 401 would make clients discard it."""

    error = "mfa_required"
    message = "Second factor required. Send the code in otp"


class WrongCodeError(ForbiddenError):
    error = "wrong_code"
    message = "The code is wrong or has already been used"


class TooManyCodesError(ApiError):
    """Sent only after the right password or with a valid token, so it tells others nothing."""

    status = 429
    error = "too_many_codes"
    limit = "second_factor_codes"
    message = "Too many wrong codes. Use a recovery code, or try again later"
    headers: ClassVar = {"Retry-After": "3600"}  # one more code is then allowed (code_checks.py)
