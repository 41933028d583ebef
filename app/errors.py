"""The kinds of error: a status, a stable code for programs and a message for people. Does not use
FastAPI.

Operations raise them, routes do not catch them, and one handler renders them (error_responses.py).
The code is that of the RFC where there is one (RFC 6749, 5.2; RFC 6750, 3.1).
"""

from typing import ClassVar, cast


class ApiError(Exception):
    """An error response.

    Keyword arguments become members of the JSON body, so they must not contain secrets.
    """

    status: ClassVar[int]
    error: ClassVar[str]
    message: ClassVar[str]
    headers: ClassVar[dict[str, str]] = {}
    example: ClassVar[dict[str, object]] = {}  # further members in the documented example
    limit: str | None = None  # the limit that the request exceeded; the metrics count by it

    def __init__(self, **members: object) -> None:
        super().__init__(self.message)
        self.members = members

    def describe(self) -> str:
        """The class's `message`. Subclasses override this if it differs per error."""
        return self.message

    def body(self) -> dict[str, object]:
        return {"message": self.describe(), "error": self.error, **self.members}

    def header_fields(self) -> dict[str, str]:
        """The class's `headers`. Subclasses override this if the values differ per error."""
        return self.headers


class InvalidRequestError(ApiError):
    """A member is missing, has the wrong type or is out of bounds. `fields` lists each of them."""

    status = 422
    error = "invalid_request"
    message = "The request is not valid"
    example: ClassVar = {"fields": [{"field": "username", "message": "Field required"}]}

    @classmethod
    def for_field(cls, field: str, message: str) -> "InvalidRequestError":
        return cls(fields=[{"field": field, "message": message}])

    def __str__(self) -> str:
        fields = cast("list[dict[str, str]]", self.members.get("fields", []))
        problems = [f"{problem['field']}: {problem['message']}" for problem in fields]
        return "; ".join(problems) or self.message


class UnauthorizedError(ApiError):
    """The caller is not authenticated. Every 401 has a challenge (RFC 9110, 15.5.2)."""

    status = 401
    headers: ClassVar = {"WWW-Authenticate": 'Bearer realm="hourpass"'}


class ForbiddenError(ApiError):
    status = 403


class NotFoundError(ApiError):
    status = 404
    error = "not_found"
    message = "Not found"


class ConflictError(ApiError):
    status = 409


class UnavailableError(ApiError):
    """Temporary. The same request may succeed in a moment."""

    status = 503
    error = "temporarily_unavailable"
    message = "The service is busy, try again shortly"
    headers: ClassVar = {"Retry-After": "1"}


class InternalError(ApiError):
    status = 500
    error = "server_error"
    message = "Internal server error"


class MalformedRequestError(ApiError):
    """The bytes received are not HTTP."""

    status = 400
    error = "invalid_request"
    message = "Malformed HTTP request"


class RequestTimeoutError(ApiError):
    status = 408
    error = "request_timeout"
    limit = "request_time"
    message = "The request took too long to arrive"


class ContentTooLargeError(ApiError):
    status = 413
    error = "content_too_large"
    limit = "body_size"
    message = "The request body is too large"


class UriTooLongError(ApiError):
    status = 414
    error = "uri_too_long"
    limit = "uri_size"
    message = "The request path is too long"


class UnsupportedMediaTypeError(ApiError):
    status = 415
    error = "unsupported_media_type"
    message = "Set Content-Type to application/json or application/x-www-form-urlencoded"


class FormRequiredError(UnsupportedMediaTypeError):
    message = "Send a form, with Content-Type application/x-www-form-urlencoded"


class HeadersTooLargeError(ApiError):
    status = 431
    error = "headers_too_large"
    limit = "header_size"
    message = "The request headers are too large"


class OAuthError(ApiError):
    """400, no challenge: strict OAuth clients read a 401 as a failed client authentication."""

    status = 400

    def body(self) -> dict[str, object]:
        return {**super().body(), "error_description": self.describe()}


class InvalidFormError(OAuthError):
    """A parameter is missing, sent twice or out of bounds."""

    error = "invalid_request"
    message = "A parameter is missing, repeated or out of bounds"

    def __init__(self, problem: str | None = None) -> None:
        """`problem` says which parameter, in the characters that RFC 6749, 5.2 allows."""
        super().__init__()
        self._problem = problem

    def describe(self) -> str:
        return self._problem or self.message


class StartupError(Exception):
    """The service must not start with these settings. The message tells the operator why."""
