"""Reads the body of POST /token, which is JSON or a form, and passes it to its grant."""

import base64
from collections import Counter
from typing import Annotated, Any
from urllib.parse import unquote_plus

from fastapi import Depends, Request

from app.context import RequestContext
from app.errors import InvalidFormError
from app.http.bodies import FORM, JSON, documented_body, media_type, read_form, read_json, validate
from app.login.client_credentials import ClientCredentialsGrant
from app.login.errors import UnsupportedGrantTypeError
from app.login.password_grant import PasswordGrant
from app.login.refresh_grant import RefreshGrant
from app.login.schemas import (
    EXCHANGE_GRANT,
    ClientCredentialsBody,
    GrantBody,
    GrantRequest,
    IssuedToken,
    PasswordGrantBody,
    RefreshGrantBody,
    TokenExchangeBody,
)
from app.login.token_exchange import TokenExchangeGrant
from app.tokens.audiences import parse_resource

_GRANTS: dict[str, type[GrantBody]] = {
    "password": PasswordGrantBody,
    "refresh_token": RefreshGrantBody,
    "client_credentials": ClientCredentialsBody,
    EXCHANGE_GRANT: TokenExchangeBody,
}
_NAMES: dict[type[GrantBody], str] = {
    kind: grant.rpartition(":")[2].replace("-", "_") for grant, kind in _GRANTS.items()
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
    if by_form and (credentials := _basic_credentials(request)):
        _add_credentials(members, *credentials)
    grant_type = members.get("grant_type") or "password"
    if not isinstance(grant_type, str) or grant_type not in _GRANTS:
        raise UnsupportedGrantTypeError
    if "resource" in members:
        members["resource"] = parse_resource(members["resource"])
    return GrantRequest(validate(_GRANTS[grant_type], members, by_form=by_form), by_form)


def _basic_credentials(request: Request) -> tuple[str, str] | None:
    scheme, _, encoded = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        credentials = base64.b64decode(encoded.strip(), validate=True).decode()
    except ValueError:
        return None
    client_id, _, secret = credentials.partition(":")
    return client_id, secret


def _add_credentials(members: dict[str, Any], client_id: str, secret: str) -> None:
    """Both are encoded as in a form (RFC 6749, 2.3.1). Raises InvalidFormError if the form has
    credentials too.

    The Authorize dialog of the docs page has no field for a code. The user types it as the client
    secret, and no client id. With other grants, the secret of a client is ignored: clients are not
    registered here.
    """
    if members.get("grant_type") == "client_credentials":
        given = {"client_id": unquote_plus(client_id), "client_secret": unquote_plus(secret)}
    else:
        given = {"otp": secret} if secret and not client_id else {}
    if given.keys() & members.keys():
        raise InvalidFormError
    members.update(given)


class Grants:
    def __init__(
        self,
        password: PasswordGrant,
        refresh: RefreshGrant,
        token_exchange: TokenExchangeGrant,
        client_credentials: ClientCredentialsGrant,
    ) -> None:
        self._password = password
        self._refresh = refresh
        self._token_exchange = token_exchange
        self._client_credentials = client_credentials
        self.issued = Counter(dict.fromkeys(_NAMES.values(), 0))  # by grant

    async def issue(self, context: RequestContext, request: GrantRequest) -> IssuedToken:
        """Raises the errors of the grant."""
        token = await self._issue(context, request)
        self.issued[_NAMES[type(request.body)]] += 1
        return token

    async def _issue(self, context: RequestContext, request: GrantRequest) -> IssuedToken:
        body = request.body
        if isinstance(body, ClientCredentialsBody):
            return await self._client_credentials.issue(context, body)
        if isinstance(body, TokenExchangeBody):
            return await self._token_exchange.issue(context, body)
        if isinstance(body, RefreshGrantBody):
            return await self._refresh.issue(context, body)
        return await self._password.issue(context, body, by_form=request.by_form)


async def _grants(request: Request) -> Grants:
    grants: Grants = request.app.state.grants
    return grants


GrantRequestDep = Annotated[GrantRequest, Depends(_grant_request)]
GrantsDep = Annotated[Grants, Depends(_grants)]
