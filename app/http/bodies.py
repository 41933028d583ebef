"""Reads and documents request bodies: JSON, and the forms of OAuth.

The command line uses the models too, without importing FastAPI.
"""

import re
from collections.abc import Collection
from typing import TYPE_CHECKING, Annotated, Any, TypeVar
from urllib.parse import parse_qsl

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    GetJsonSchemaHandler,
    ValidationError,
    model_validator,
)
from pydantic_core import CoreSchema, ErrorDetails

from app.errors import InvalidFormError, UnsupportedMediaTypeError

if TYPE_CHECKING:
    from fastapi import Request
    from fastapi.exceptions import RequestValidationError

JSON = "application/json"
FORM = "application/x-www-form-urlencoded"
MAX_PARAMETERS = 100

_PARAMETER_NAME = re.compile("[a-z_]{1,30}")
_DESCRIPTION = re.compile(r"[\x20-\x21\x23-\x5b\x5d-\x7e]+")  # RFC 6749, 5.2

Model = TypeVar("Model", bound=BaseModel)

# The member of a response that consists of a text only.
ConstantMessage = Annotated[str, Field(description="For people.")]


class RequestBody(BaseModel):
    """A body in which null and empty members count as omitted, as the parameters of a form do, and
    whose schema declares no `default`.

    Generated clients send declared defaults, so a client that changes one member of a user would
    change others too. Descriptions name the defaults.
    """

    @model_validator(mode="before")
    @classmethod
    def _omit_empty_members(cls, members: Any) -> Any:
        if not isinstance(members, dict):
            return members
        return {name: value for name, value in members.items() if not cls._is_omitted(value)}

    @classmethod
    def _is_omitted(cls, value: Any) -> bool:
        return value is None or (isinstance(value, str) and not value)

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

    @classmethod
    def _is_omitted(cls, value: Any) -> bool:
        return value is None

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


def media_type(request: "Request") -> str:
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def is_json(request: "Request") -> bool:
    """Whether FastAPI would read the body as JSON."""
    kind = media_type(request)
    return kind == JSON or (kind.startswith("application/") and kind.endswith("+json"))


async def read_form(request: "Request", lists: Collection[str] = ()) -> dict[str, Any]:
    """Read a form in UTF-8 (RFC 6749, appendix B). FastAPI would read it as Latin-1.

    Parameters must not be repeated, and one without a value counts as omitted (RFC 6749, 3.2).
    Those of `lists` may be repeated: then the value is a list. Raises InvalidFormError.
    """
    body = await request.body()
    if looks_like_json(body):
        raise InvalidFormError("The body is JSON, but Content-Type says that it is a form")
    try:
        sent = parse_qsl(body.decode(), errors="strict", max_num_fields=MAX_PARAMETERS)
    except UnicodeDecodeError:
        raise InvalidFormError("The form must be encoded in UTF-8") from None
    except ValueError:
        raise InvalidFormError("The form has too many parameters") from None
    members: dict[str, Any] = dict(sent)
    names = [name for name, _ in sent]
    for name in members:
        if names.count(name) > 1:
            if name not in lists:
                raise InvalidFormError(_repeated(name))
            members[name] = [value for sent_name, value in sent if sent_name == name]
    return members


def looks_like_json(body: bytes) -> bool:
    return body.lstrip(b"\xef\xbb\xbf\x20\t\r\n").startswith(b"{")


async def read_json(request: "Request") -> dict[str, Any]:
    """Read JSON as FastAPI does, so that the same rules apply to all routes.

    Raises UnsupportedMediaTypeError and RequestValidationError.
    """
    if not is_json(request):
        raise UnsupportedMediaTypeError
    try:
        members = await request.json()
    except (ValueError, RecursionError):
        raise _invalid_body("json_invalid", "JSON decode error") from None
    if not isinstance(members, dict):
        raise _invalid_body("dict_type", "Input should be an object")
    return members


def validate(model: type[Model], members: dict[str, Any], *, by_form: bool) -> Model:
    try:
        return model.model_validate(members)
    except ValidationError as error:
        if by_form:
            raise InvalidFormError(_describe(error.errors()[0])) from None
        problems = error.errors(include_input=False, include_url=False, include_context=False)
        located = [{**problem, "loc": ("body", *problem["loc"])} for problem in problems]
        raise _invalid(located) from None


def _describe(problem: ErrorDetails) -> str | None:
    """Names the parameter, which is one of the model. None if the text has characters that RFC 6749
    does not allow."""
    name, message = str(problem["loc"][0]), problem["msg"]
    text = (
        f"The parameter {name} is missing" if problem["type"] == "missing" else f"{name}: {message}"
    )
    return text if _DESCRIPTION.fullmatch(text) else None


def _repeated(name: str) -> str | None:
    """None if the name could be anything, such as a password in the wrong place."""
    return f"The parameter {name} is repeated" if _PARAMETER_NAME.fullmatch(name) else None


def _invalid_body(type_: str, message: str) -> "RequestValidationError":
    return _invalid([{"type": type_, "loc": ("body",), "msg": message}])


def _invalid(problems: list[dict[str, Any]]) -> "RequestValidationError":
    from fastapi.exceptions import RequestValidationError

    return RequestValidationError(problems)
