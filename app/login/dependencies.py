"""Grants from either kind of body, the verb that trades them, and what a question demands."""

import base64
from typing import Annotated, Any

from fastapi import Depends, Request
from sqlalchemy.ext.asyncio import AsyncSession

from app.credentials.second_factors.service import SecondFactors
from app.credentials.sessions.dependencies import sessions_of
from app.database.engine import SessionDep
from app.errors import InvalidFormError
from app.http.bodies import FORM, JSON, documented_body, media_type, read_form, read_json, validate
from app.login.errors import UnsupportedGrantTypeError
from app.login.schemas import GrantRequest, PasswordGrant, RefreshGrant
from app.login.service import Login
from app.users.dependencies import proof_of

_GRANTS: dict[str, type[PasswordGrant | RefreshGrant]] = {
    "password": PasswordGrant,
    "refresh_token": RefreshGrant,
}


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


GRANT_BODY = documented_body(_grant_schema(), JSON, FORM)


async def grant_from(request: Request) -> GrantRequest:
    by_form = media_type(request) == FORM
    members = await (read_form(request) if by_form else read_json(request))
    if by_form and (otp := _otp_as_client_secret(request)):
        if "otp" in members:
            raise InvalidFormError
        members["otp"] = otp
    grant_type = members.get("grant_type", "password")
    if not isinstance(grant_type, str) or grant_type not in _GRANTS:
        raise UnsupportedGrantTypeError
    return GrantRequest(validate(_GRANTS[grant_type], members, by_form=by_form), by_form)


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


GrantRequestDep = Annotated[GrantRequest, Depends(grant_from)]


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
