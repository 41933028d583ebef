"""Reads and documents request bodies: JSON, and the forms of OAuth."""

from typing import Annotated, Any, TypeVar

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict, Field, GetJsonSchemaHandler, ValidationError
from pydantic_core import CoreSchema, from_json
from starlette.exceptions import HTTPException

from app.errors import InvalidFormError, UnsupportedMediaTypeError

JSON = "application/json"
FORM = "application/x-www-form-urlencoded"

Model = TypeVar("Model", bound=BaseModel)

# The text of a response that has nothing more to say.
ConstantMessage = Annotated[str, Field(description="For people.")]


class RequestBody(BaseModel):
    """A body whose schema declares no `default`.

    Generated clients send declared defaults, so a client that changes one member of a user would
    change others too. Descriptions name the defaults.
    """

    @classmethod
    def __get_pydantic_json_schema__(
        cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        schema = handler(core_schema)
        for member in handler.resolve_ref_schema(schema).get("properties", {}).values():
            member.pop("default", None)
        return schema


class Change(RequestBody):
    """The body of a PATCH. Omitted and null members do not change."""

    model_config = ConfigDict(extra="forbid")

    def changes(self) -> dict[str, Any]:
        """The members to change. An empty string means removal, which is None here."""
        given = {name: value for name, value in self if value is not None}
        return {name: None if value == "" else value for name, value in given.items()}


def documented_body(schema: dict[str, Any], *media_types: str) -> dict[str, Any]:
    """For routes that parse the body themselves, so that FastAPI does not document it.

    It is not `required` if there are two media types: openapi-python-client makes a function of
    that which cannot be imported.
    """
    content = {media_type: {"schema": schema} for media_type in media_types}
    return {"requestBody": {"required": len(media_types) == 1, "content": content}}


def media_type(request: Request) -> str:
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


async def read_form(request: Request) -> dict[str, Any]:
    """RFC 6749, 3.2: parameters must not be repeated, and one without a value counts as omitted."""
    try:
        async with request.form() as form:
            sent = [(name, value) for name, value in form.multi_items() if value]
    except HTTPException:  # more parameters than the framework accepts
        raise InvalidFormError from None
    members = dict(sent)
    if len(members) != len(sent):
        raise InvalidFormError
    return members


async def read_json(request: Request) -> dict[str, Any]:
    if media_type(request) != JSON:
        raise UnsupportedMediaTypeError
    try:
        members = from_json(await request.body())
    except ValueError:
        raise _invalid_body("json_invalid", "JSON decode error") from None
    if not isinstance(members, dict):
        raise _invalid_body("dict_type", "Input should be an object")
    return members


def validate(model: type[Model], members: dict[str, Any], *, by_form: bool) -> Model:
    try:
        return model.model_validate(members)
    except ValidationError as error:
        if by_form:
            raise InvalidFormError from None
        problems = error.errors(include_input=False, include_url=False, include_context=False)
        located = [{**problem, "loc": ("body", *problem["loc"])} for problem in problems]
        raise RequestValidationError(located) from None


def _invalid_body(type_: str, message: str) -> RequestValidationError:
    return RequestValidationError([{"type": type_, "loc": ("body",), "msg": message}])
