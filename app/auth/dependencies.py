"""Credentials from either kind of body, and the verb that trades them."""

from typing import Annotated, Any

from fastapi import Depends, Request
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError

from app.auth.errors import InvalidFormError, UnsupportedGrantTypeError
from app.auth.schemas import Credentials, PasswordGrant
from app.auth.service import Login
from app.errors import UnsupportedMediaTypeError
from app.passwords import PasswordsDep
from app.tokens.dependencies import TokensDep
from app.users.dependencies import UsersDep

_JSON = "application/json"
_FORM = "application/x-www-form-urlencoded"

# FastAPI can derive a body's documentation from one kind of body only; this call takes two.
TOKEN_REQUEST_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            _JSON: {"schema": Credentials.model_json_schema()},
            _FORM: {"schema": PasswordGrant.model_json_schema()},
        },
    }
}


async def _credentials(request: Request) -> Credentials:
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type == _JSON:
        return _from_json(await request.body())
    if media_type == _FORM:
        async with request.form() as form:
            return _from_form(form.multi_items())
    raise UnsupportedMediaTypeError


def _from_json(body: bytes) -> Credentials:
    try:
        return Credentials.model_validate_json(body)
    except ValidationError as error:
        problems = error.errors(include_input=False, include_url=False, include_context=False)
        located = [{**problem, "loc": ("body", *problem["loc"])} for problem in problems]
        raise RequestValidationError(located) from None


def _from_form(items: list[tuple[str, Any]]) -> PasswordGrant:
    form = dict(items)
    if form.get("grant_type", "password") != "password":
        raise UnsupportedGrantTypeError
    try:
        if len(form) != len(items):  # RFC 6749, 3.2: no parameter more than once
            raise InvalidFormError
        return PasswordGrant.model_validate(form)
    except ValidationError:
        raise InvalidFormError from None


CredentialsDep = Annotated[Credentials, Depends(_credentials)]


async def _login(users: UsersDep, passwords: PasswordsDep, tokens: TokensDep) -> Login:
    return Login(users, passwords, tokens)


LoginDep = Annotated[Login, Depends(_login)]
