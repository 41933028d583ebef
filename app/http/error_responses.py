"""Any error in, the one JSON shape out; the same shape, error by error, for the OpenAPI page."""

from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException

from app.errors import ApiError, InternalError, InvalidRequestError, NotFoundError


class FieldError(BaseModel):
    """One thing wrong with one member of the request. What was sent is never repeated."""

    field: str = Field(examples=["username"])
    message: str = Field(examples=["Field required"])


class ErrorBody(BaseModel):
    """Every refusal of this service has this shape."""

    model_config = ConfigDict(title="Problem")

    message: str = Field(description="For people.", examples=["Invalid token"])
    error: str = Field(description="A stable code for programs.", examples=["invalid_token"])
    error_description: str | None = Field(
        None, description="The message again, where RFC 6749, 5.2 asks for it."
    )
    user_id: int | None = Field(None, description="With `user_exists`: the id of that user.")
    fields: list[FieldError] | None = Field(
        None, description="With `invalid_request`: what is wrong, member by member."
    )


def error_response(refusal: ApiError) -> JSONResponse:
    return JSONResponse(refusal.body(), refusal.status, refusal.header_fields())


def validation_error_response(error: RequestValidationError) -> JSONResponse:
    fields = [
        # loc is ("body", "email") or ("path", "user_id"), and for broken JSON an offset.
        {
            "field": ".".join(p for p in problem["loc"][1:] if isinstance(p, str)) or "body",
            "message": problem["msg"],
        }
        for problem in error.errors()
    ]
    return error_response(InvalidRequestError(fields=fields))


def install(app: FastAPI) -> None:
    app.add_exception_handler(ApiError, _on_refusal)
    app.add_exception_handler(RequestValidationError, _on_validation_error)
    app.add_exception_handler(HTTPException, _on_http_exception)
    app.add_exception_handler(Exception, _on_unexpected)


def error_docs(*refusals: type[ApiError]) -> dict[int | str, dict[str, Any]]:
    """What a route, or the whole service, passes as `responses` to document these refusals."""
    responses: dict[int | str, dict[str, Any]] = {}
    for refusal in refusals:
        response = responses.setdefault(
            refusal.status,
            {"model": ErrorBody, "description": "", "content": {"application/json": {}}},
        )
        response["description"] = "; ".join(
            filter(None, [response["description"], refusal.message])
        )
        examples = response["content"]["application/json"].setdefault("examples", {})
        examples[refusal.error] = {"summary": refusal.message, "value": refusal().body()}
        if fields := refusal().header_fields():
            response["headers"] = {
                name: {"schema": {"type": "string"}, "example": value}
                for name, value in fields.items()
            }
    return responses


async def _on_refusal(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, ApiError)
    return error_response(error)


async def _on_validation_error(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    return validation_error_response(error)


async def _on_unexpected(_request: Request, _error: Exception) -> JSONResponse:
    """exchange.py writes it to the log, without its text."""
    return error_response(InternalError())


async def _on_http_exception(_: Request, error: Exception) -> JSONResponse:
    """What the framework itself refuses: an unknown path, a wrong method."""
    assert isinstance(error, HTTPException)
    if error.status_code == NotFoundError.status:
        return error_response(NotFoundError())
    if isinstance(error.__cause__, ApiError):
        return error_response(error.__cause__)  # raised while FastAPI was reading the body
    if error.status_code == 400:
        return error_response(InvalidRequestError.for_field("body", "Must be JSON in UTF-8"))
    code = error.detail.lower().replace(" ", "_")
    return JSONResponse({"message": error.detail, "error": code}, error.status_code, error.headers)
