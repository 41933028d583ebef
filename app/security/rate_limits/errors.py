from typing import ClassVar

from app.errors import ApiError


class TooManyAttemptsError(ApiError):
    """RFC 6585, 4. The same for known and unknown users. Retry-After is exact."""

    status = 429
    error = "too_many_attempts"
    message = "Too many attempts, try again later"
    headers: ClassVar = {"Retry-After": "1"}

    def __init__(self, limit: str = "other", seconds: int = 1) -> None:
        super().__init__()
        self.limit = limit
        self._seconds = seconds

    def header_fields(self) -> dict[str, str]:
        return {"Retry-After": str(self._seconds)}
