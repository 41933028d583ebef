"""What the routes that check tokens may ask for."""

import re
from functools import lru_cache
from typing import Annotated
from urllib.parse import parse_qsl

from fastapi import Depends, Request
from starlette.types import Scope

from app.credentials.sessions.dependencies import sessions_of
from app.database.engine import SessionDep
from app.errors import InvalidRequestError, UnsupportedMediaTypeError
from app.events import events_of
from app.http.bodies import FORM, documented_body, media_type, read_form, validate
from app.token_checks.schemas import TokenForm
from app.token_checks.service import IssuedTokens
from app.tokens.errors import InsufficientScopeError
from app.tokens.revocations.dependencies import revocations_of
from app.users.dependencies import CurrentUser, verification_of
from app.users.service import Identity

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


TOKEN_BODY = documented_body(TokenForm.model_json_schema(), FORM)


async def _token_form(request: Request) -> TokenForm:
    if media_type(request) != FORM:
        raise UnsupportedMediaTypeError
    return validate(TokenForm, await read_form(request), by_form=True)


TokenFormDep = Annotated[TokenForm, Depends(_token_form)]


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


_SCOPES = re.compile(r"[\x21\x23-\x5b\x5d-\x7e]+( [\x21\x23-\x5b\x5d-\x7e]+)*")  # RFC 6749, 3.3


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
