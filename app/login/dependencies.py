"""Reads the body of POST /token, which is JSON or a form."""

import base64
from typing import Annotated, Any

from fastapi import Depends, Request

from app.errors import InvalidFormError
from app.http.bodies import FORM, JSON, documented_body, media_type, read_form, read_json, validate
from app.login.errors import UnsupportedGrantTypeError
from app.login.password_grant import PasswordGrant
from app.login.refresh_grant import RefreshGrant
from app.login.schemas import (
    EXCHANGE_GRANT,
    GrantRequest,
    PasswordGrantBody,
    RefreshGrantBody,
    TokenExchangeBody,
)
from app.login.token_exchange import TokenExchangeGrant
from app.tokens.audiences import parse_resource

_GRANTS: dict[str, type[PasswordGrantBody | RefreshGrantBody | TokenExchangeBody]] = {
    "password": PasswordGrantBody,
    "refresh_token": RefreshGrantBody,
    EXCHANGE_GRANT: TokenExchangeBody,
}


def _grant_schema() -> dict[str, Any]:
    """All grants as one object, since the docs page can show only one form."""
    by_password = PasswordGrantBody.model_json_schema()
    schemas = [kind.model_json_schema() for kind in reversed(_GRANTS.values())]
    grant_type = {
        "type": "string",
        "enum": list(_GRANTS),
        "description": "Default: password.",
    }
    members = {
        **by_password["properties"],
        **{name: member for schema in schemas for name, member in schema["properties"].items()},
        "grant_type": grant_type,
    }
    examples = [example for schema in reversed(schemas) for example in schema["examples"]]
    return {"title": "TokenRequest", "type": "object", "properties": members, "examples": examples}


GRANT_BODY = documented_body(_grant_schema(), JSON, FORM)


async def _grant_request(request: Request) -> GrantRequest:
    by_form = media_type(request) == FORM
    members = await (read_form(request, ("resource",)) if by_form else read_json(request))
    if by_form and (otp := _otp_as_client_secret(request)):
        if "otp" in members:
            raise InvalidFormError
        members["otp"] = otp
    grant_type = members.get("grant_type") or "password"
    if not isinstance(grant_type, str) or grant_type not in _GRANTS:
        raise UnsupportedGrantTypeError
    if "resource" in members:
        members["resource"] = parse_resource(members["resource"])
    return GrantRequest(validate(_GRANTS[grant_type], members, by_form=by_form), by_form)


def _otp_as_client_secret(request: Request) -> str | None:
    """The Authorize dialog of the docs page has no field for a code. The user types it as the
    client secret, which the page sends as Basic credentials. Real clients also have an id (RFC
    6749, 2.3.1); their secret is ignored."""
    scheme, _, encoded = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        credentials = base64.b64decode(encoded.strip(), validate=True).decode()
    except ValueError:
        return None
    client_id, _, secret = credentials.partition(":")
    return None if client_id else secret or None


async def _password_grant(request: Request) -> PasswordGrant:
    grant: PasswordGrant = request.app.state.password_grant
    return grant


async def _refresh_grant(request: Request) -> RefreshGrant:
    grant: RefreshGrant = request.app.state.refresh_grant
    return grant


async def _token_exchange_grant(request: Request) -> TokenExchangeGrant:
    grant: TokenExchangeGrant = request.app.state.token_exchange_grant
    return grant


GrantRequestDep = Annotated[GrantRequest, Depends(_grant_request)]
PasswordGrantDep = Annotated[PasswordGrant, Depends(_password_grant)]
RefreshGrantDep = Annotated[RefreshGrant, Depends(_refresh_grant)]
TokenExchangeGrantDep = Annotated[TokenExchangeGrant, Depends(_token_exchange_grant)]
