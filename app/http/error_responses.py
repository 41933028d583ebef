"""Renders every error as the one JSON body, and documents errors for the OpenAPI document."""

from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.routing import Match

from app.errors import ApiError, InternalError, InvalidRequestError, NotFoundError
from app.http.bodies import JSON, is_json, looks_like_json
from app.http.request_counts import RequestCounts

_METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")

_HEADERS = {
    "WWW-Authenticate": {
        "description": "A challenge (RFC 6750, 3).",
        "schema": {"type": "string"},
        "example": 'Bearer realm="hourpass", error="invalid_token"',
    },
    "Retry-After": {
        "description": "Seconds to wait before the next attempt.",
        "schema": {"type": "integer", "minimum": 0, "maximum": 86_400},
        "example": 1,
    },
}


class FieldError(BaseModel):
    """A problem with one member of the request. It never repeats the value."""

    field: str = Field(description="The member, such as `username`.", examples=["username"])
    message: str = Field(description="For people.", examples=["Field required"])


class ErrorBody(BaseModel):
    """The body of every error."""

    message: str = Field(description="For people. The text may change.", examples=["Invalid token"])
    error: str = Field(description="A stable code for programs.", examples=["invalid_token"])
    error_description: str | None = Field(
        None, description="Repeats the message where RFC 6749, 5.2 requires it."
    )
    user_id: int | None = Field(None, description="Only with `user_exists`: the id of that user.")
    fields: list[FieldError] | None = Field(
        None, description="Only with `invalid_request`: what is wrong, per member."
    )


def error_response(error: ApiError) -> JSONResponse:
    return JSONResponse(error.body(), error.status, error.header_fields())


def validation_error_response(error: RequestValidationError) -> JSONResponse:
    fields = [
        # loc is ("body", "email") or ("path", "user_id"), or an offset in broken JSON.
        {
            "field": ".".join(p for p in problem["loc"][1:] if isinstance(p, str)) or "body",
            "message": problem["msg"],
        }
        for problem in error.errors()
    ]
    return error_response(InvalidRequestError(fields=fields))


def install(app: FastAPI) -> None:
    app.add_exception_handler(ApiError, _on_api_error)
    app.add_exception_handler(RequestValidationError, _on_validation_error)
    app.add_exception_handler(HTTPException, _on_http_exception)
    app.add_exception_handler(Exception, _on_unexpected)


def error_docs(*errors: type[ApiError]) -> dict[int | str, dict[str, Any]]:
    """The `responses` argument of a route that documents these errors, with an example of each."""
    responses: dict[int | str, dict[str, Any]] = {}
    for kind in errors:
        error = kind()
        response = responses.setdefault(
            kind.status, {"model": ErrorBody, "content": {"application/json": {"examples": {}}}}
        )
        examples = response["content"]["application/json"]["examples"]
        name = kind.error
        if name in examples:  # POST /token has two errors invalid_grant
            name = f"{name}_{len(examples) + 1}"
        examples[name] = {"summary": kind.message, "value": {**error.body(), **kind.example}}
        line = f"`{kind.error}`: {kind.message}"
        response["description"] = "  \n".join(filter(None, [response.get("description"), line]))
        response.setdefault("headers", {}).update(
            {name: _HEADERS[name] for name in error.header_fields()}
        )
    return responses


async def _on_api_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, ApiError)
    return _counted_response(request, error)


def _counted_response(request: Request, error: ApiError) -> JSONResponse:
    counts: RequestCounts = request.app.state.request_counts
    counts.add_refusal(error)
    return error_response(error)


async def _on_validation_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    if isinstance(error.body, bytes) and not is_json(request):  # FastAPI has not parsed it
        problem = f"Must be a JSON object, with Content-Type {JSON}"
        if looks_like_json(error.body):
            problem = f"The body is JSON, but Content-Type does not say so. Set it to {JSON}"
        return error_response(InvalidRequestError.for_field("body", problem))
    return validation_error_response(error)


async def _on_unexpected(_request: Request, _error: Exception) -> JSONResponse:
    """middleware.py logs it, without its text."""
    return error_response(InternalError())


async def _on_http_exception(request: Request, error: Exception) -> JSONResponse:
    """Errors of the framework, such as an unknown path or a wrong method."""
    assert isinstance(error, HTTPException)
    if error.status_code == NotFoundError.status:
        return error_response(NotFoundError())
    if isinstance(error.__cause__, ApiError):
        # Raised while FastAPI was reading the body.
        return _counted_response(request, error.__cause__)
    if isinstance(error.__cause__, ClientDisconnect):
        raise error.__cause__
    if error.status_code == 400:
        return error_response(InvalidRequestError.for_field("body", "Must be JSON in UTF-8"))
    headers = error.headers
    if error.status_code == 405:
        headers = {"Allow": ", ".join(_allowed_methods(request))}
    code = error.detail.lower().replace(" ", "_")
    return JSONResponse({"message": error.detail, "error": code}, error.status_code, headers)


def _allowed_methods(request: Request) -> list[str]:
    """All methods of the path (RFC 9110, 10.2.1). The framework names those of one route.

    Below a mount, which has files, no route matches: they can only be read.
    """
    found = [
        method
        for method in _METHODS
        if any(
            route.matches({**request.scope, "method": method})[0] is Match.FULL
            for route in request.app.routes
        )
    ]
    return ["GET", "HEAD", *found[1:]] if found[:1] in ([], ["GET"]) else found
