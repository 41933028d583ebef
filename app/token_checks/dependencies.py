from typing import Annotated

from fastapi import Depends, Request

from app.errors import FormRequiredError
from app.http.bodies import FORM, documented_body, media_type, read_form, validate
from app.token_checks.schemas import TokenForm
from app.token_checks.service import TokenIntrospection, TokenRevocation

TOKEN_BODY = documented_body(TokenForm.model_json_schema(), FORM)


async def _token_form(request: Request) -> TokenForm:
    if media_type(request) != FORM:
        raise FormRequiredError
    return validate(TokenForm, await read_form(request), by_form=True)


async def _token_revocation(request: Request) -> TokenRevocation:
    revocation: TokenRevocation = request.app.state.token_revocation
    return revocation


async def _token_introspection(request: Request) -> TokenIntrospection:
    introspection: TokenIntrospection = request.app.state.token_introspection
    return introspection


TokenFormDep = Annotated[TokenForm, Depends(_token_form)]
TokenRevocationDep = Annotated[TokenRevocation, Depends(_token_revocation)]
TokenIntrospectionDep = Annotated[TokenIntrospection, Depends(_token_introspection)]
