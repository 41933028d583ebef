from app.errors import ConflictError, ForbiddenError, NotFoundError, Refusal


class SecondFactorNotFoundError(NotFoundError):
    error = "second_factor_not_found"
    message = "There is no second factor, or none that waits to be confirmed"


class SecondFactorExistsError(ConflictError):
    error = "second_factor_exists"
    message = "There is a second factor already. Remove it first"


class WrongPasswordError(ForbiddenError):
    """The token holds, so it is not 401: clients would take that for its end."""

    error = "wrong_password"
    message = "The password is wrong"


class WrongCodeError(ForbiddenError):
    error = "wrong_code"
    message = "The code is wrong, or was used before"


class TooManyCodesError(Refusal):
    """Only whoever knows the password, or holds a token, gets to hear it."""

    status = 429
    error = "too_many_codes"
    message = "Too many wrong codes. Use a recovery code, or wait"

    def __init__(self, seconds: int = 3600) -> None:
        super().__init__()
        self.seconds = seconds

    def header_fields(self) -> dict[str, str]:
        return {"Retry-After": str(self.seconds)}
