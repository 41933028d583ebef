"""Grants from either kind of body, the verb that trades them, and what a question demands."""

import base64
import re
from functools import lru_cache
from typing import Annotated, Any, TypeVar
from urllib.parse import parse_qsl

from fastapi import Depends, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ValidationError
from pydantic_core import from_json
from sqlalchemy.ext.asyncio import AsyncSession
from starlette.exceptions import HTTPException
from starlette.types import Scope

from app.auth.errors import InvalidFormError, UnsupportedGrantTypeError
from app.auth.schemas import GrantRequest, PasswordGrant, RefreshGrant, TokenForm
from app.auth.service import IssuedTokens, Login
from app.database import SessionDep
from app.errors import InvalidRequestError, UnsupportedMediaTypeError
from app.events import events_of
from app.revocations.dependencies import revocations_of
from app.second_factors.service import SecondFactors
from app.sessions.dependencies import sessions_of
from app.tokens.errors import InsufficientScopeError
from app.users.dependencies import CurrentUser, proof_of, verification_of
from app.users.service import Identity

JSON = "application/json"
_FORM = "application/x-www-form-urlencoded"

_SCOPES = re.compile(r"[\x21\x23-\x5b\x5d-\x7e]+( [\x21\x23-\x5b\x5d-\x7e]+)*")  # RFC 6749, 3.3

_GRANTS: dict[str, type[PasswordGrant | RefreshGrant]] = {
    "password": PasswordGrant,
    "refresh_token": RefreshGrant,
}

Model = TypeVar("Model", bound=BaseModel)


def _documented_body(schema: dict[str, Any], *media_types: str) -> dict[str, Any]:
    """FastAPI derives a body's documentation only from bodies that it parses itself."""
    content = {media_type: {"schema": schema} for media_type in media_types}
    return {"requestBody": {"required": True, "content": content}}


def _grant_schema() -> dict[str, Any]:
    """Both grants as one object, since the docs page cannot show a form of either kind."""
    by_password, by_token = PasswordGrant.model_json_schema(), RefreshGrant.model_json_schema()
    grant_type = {
        "type": "string",
        "enum": list(_GRANTS),
        "description": "password if left out.",
    }
    members = {**by_password["properties"], **by_token["properties"], "grant_type": grant_type}
    examples = by_password["examples"] + by_token["examples"]
    return {"title": "Grant", "type": "object", "properties": members, "examples": examples}


# Envoy asks with the method, and below /verify the path and query, of the request it is about.
VERIFY_METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]
SCOPE_PARAMETER = {
    "parameters": [
        {
            "name": "scope",
            "in": "query",
            "description": "Scopes that the token must have, between spaces. May be repeated.",
            "schema": {"type": "string", "examples": ["predict"]},
        }
    ]
}
GRANT_BODY = _documented_body(_grant_schema(), JSON, _FORM)
TOKEN_BODY = _documented_body(TokenForm.model_json_schema(), _FORM)


async def grant_from(request: Request) -> GrantRequest:
    by_form = media_type(request) == _FORM
    members = await (_form(request) if by_form else _json(request))
    if by_form and (otp := _otp_as_client_secret(request)):
        if "otp" in members:
            raise InvalidFormError
        members["otp"] = otp
    grant_type = members.get("grant_type", "password")
    if not isinstance(grant_type, str) or grant_type not in _GRANTS:
        raise UnsupportedGrantTypeError
    return GrantRequest(_validate(_GRANTS[grant_type], members, by_form=by_form), by_form)


def _otp_as_client_secret(request: Request) -> str | None:
    """The docs page has no field for a code, but one for a client's secret, which it sends as Basic
    credentials. A real client has an id besides (RFC 6749, 2.3.1): its secret is not looked at."""
    scheme, _, encoded = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        client_id, _, secret = base64.b64decode(encoded).decode().partition(":")
    except ValueError:
        return None
    return None if client_id else secret or None


async def _token_form(request: Request) -> TokenForm:
    if media_type(request) != _FORM:
        raise UnsupportedMediaTypeError
    return _validate(TokenForm, await _form(request), by_form=True)


def media_type(request: Request) -> str:
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


async def _form(request: Request) -> dict[str, Any]:
    """RFC 6749, 3.2: no parameter more than once, and one without a value counts as omitted."""
    try:
        async with request.form() as form:
            sent = [(name, value) for name, value in form.multi_items() if value]
    except HTTPException:  # more parameters than the framework takes
        raise InvalidFormError from None
    members = dict(sent)
    if len(members) != len(sent):
        raise InvalidFormError
    return members


async def _json(request: Request) -> dict[str, Any]:
    if media_type(request) != JSON:
        raise UnsupportedMediaTypeError
    try:
        members = from_json(await request.body())
    except ValueError:
        raise _invalid_body("json_invalid", "JSON decode error") from None
    if not isinstance(members, dict):
        raise _invalid_body("dict_type", "Input should be an object")
    return members


def _invalid_body(type_: str, message: str) -> RequestValidationError:
    return RequestValidationError([{"type": type_, "loc": ("body",), "msg": message}])


def _validate(model: type[Model], members: dict[str, Any], *, by_form: bool) -> Model:
    try:
        return model.model_validate(members)
    except ValidationError as error:
        if by_form:
            raise InvalidFormError from None
        problems = error.errors(include_input=False, include_url=False, include_context=False)
        located = [{**problem, "loc": ("body", *problem["loc"])} for problem in problems]
        raise RequestValidationError(located) from None


GrantRequestDep = Annotated[GrantRequest, Depends(grant_from)]
TokenFormDep = Annotated[TokenForm, Depends(_token_form)]


def login_of(request: Request, session: AsyncSession) -> Login:
    state = request.app.state
    proof = proof_of(request, session)
    return Login(
        session,
        proof.users,
        sessions_of(request, session),
        SecondFactors(proof, state.settings),
        state.passwords,
        state.tokens,
        state.keys,
        state.throttle,
        proof.events,
        proof.caller,
        state.settings,
    )


async def _login(request: Request, session: SessionDep) -> Login:
    return login_of(request, session)


LoginDep = Annotated[Login, Depends(_login)]


async def _issued_tokens(request: Request, session: SessionDep) -> IssuedTokens:
    return IssuedTokens(
        session,
        request.app.state.tokens,
        verification_of(request, session),
        sessions_of(request, session),
        revocations_of(request, session),
        events_of(request, session),
        request.app.state.throttle,
    )


IssuedTokensDep = Annotated[IssuedTokens, Depends(_issued_tokens)]


def refuse_without_scopes(holder: Identity, scope: Scope) -> None:
    """Every `scope` in the query must be the token's, as in /verify?scope=predict.

    Raises InsufficientScopeError and InvalidRequestError.
    """
    if query := scope["query_string"]:
        needed = _scopes_in(query)
        if not holder.scopes.issuperset(needed):
            raise InsufficientScopeError(*needed)


@lru_cache(maxsize=64)
def _scopes_in(query: bytes) -> tuple[str, ...]:
    """An empty or impossible demand is refused: it would let everybody in, or nobody."""
    pairs = parse_qsl(query.decode("latin-1"), keep_blank_values=True)
    values = [value for name, value in pairs if name == "scope"]
    if not all(_SCOPES.fullmatch(value) for value in values):
        raise InvalidRequestError.about("scope", "Must be one or more scopes between spaces")
    return tuple(sorted({one for value in values for one in value.split(" ")}))


async def _allowed_user(user: CurrentUser, request: Request) -> Identity:
    refuse_without_scopes(user, request.scope)
    return user


AllowedUser = Annotated[Identity, Depends(_allowed_user)]
