from typing import Annotated

from fastapi import APIRouter, Path, Request, Response

from app.errors import FormRequiredError, InvalidFormError, InvalidRequestError
from app.http.dependencies import ContextDep
from app.http.error_responses import error_docs
from app.http.middleware import PreparedResponse
from app.security.rate_limits.errors import TooManyAttemptsError
from app.token_checks.dependencies import (
    TOKEN_BODY,
    TokenFormDep,
    TokenIntrospectionDep,
    TokenRevocationDep,
)
from app.token_checks.fast_path import Requirements, token_status, verify
from app.token_checks.schemas import (
    IDENTITY_HEADER_DOCS,
    VERIFY_METHODS,
    VERIFY_PARAMETERS,
    Introspection,
    TokenRevoked,
    TokenStatus,
)
from app.tokens.dependencies import BearerToken
from app.tokens.errors import InsufficientScopeError, InvalidTokenError, MissingTokenError
from app.users.dependencies import BearerOfAnyAudience, TokenCheckerDep, VerifiedBearer
from app.users.token_cache import require_network

router = APIRouter(tags=["Tokens"])


@router.get(
    "/token_status/{token}",
    operation_id="readTokenStatus",
    summary="Check a token",
    response_description="The token is valid.",
    response_model=TokenStatus,
    responses=error_docs(InvalidTokenError),
)
async def read_token_status(
    token: Annotated[str, Path(description="An access token.", examples=["eyJhbGciOiJFUzI1NiIs…"])],
    checker: TokenCheckerDep,
    context: ContextDep,
) -> Response:
    """A token is valid if this service signed it for the setting `AUDIENCE`, it is neither expired
    nor revoked, and its user exists and is enabled."""
    verified = await checker.check(context, token)
    require_network(context, verified)
    context.user_id = verified.user.id
    return _response(token_status(verified.user))


@router.api_route("/verify", methods=VERIFY_METHODS, include_in_schema=False)
@router.api_route("/verify/{path:path}", methods=VERIFY_METHODS, include_in_schema=False)
@router.get(
    "/verify",
    operation_id="verifyToken",
    summary="Verify a bearer token",
    response_description="The token is valid and has the scopes.",
    response_model=TokenStatus,
    openapi_extra=VERIFY_PARAMETERS,
    responses={
        200: {"headers": IDENTITY_HEADER_DOCS},
        **error_docs(
            MissingTokenError, InvalidTokenError, InsufficientScopeError, InvalidRequestError
        ),
    },
)
async def verify_token(
    token: BearerToken, bearer: BearerOfAnyAudience, checker: TokenCheckerDep, request: Request
) -> Response:
    """For proxies and APIs that check each request: pass on its `Authorization` header, which has
    an access token or an API key. The response headers name the user.

    Any method and any path below `/verify` works, there without `audience`. The body is ignored.
    """
    needed = Requirements.of(request.scope)
    checker.require_audience(token, bearer, needed.audience)
    return _response(verify(bearer.user, needed.scopes))


def _response(prepared: PreparedResponse) -> Response:
    response = Response(prepared.body, prepared.status)
    response.raw_headers = list(prepared.headers)
    return response


@router.post(
    "/revoke",
    operation_id="revokeToken",
    summary="Revoke a token",
    response_description="The token is no longer valid, or never was.",
    openapi_extra=TOKEN_BODY,
    responses=error_docs(InvalidFormError, FormRequiredError, TooManyAttemptsError),
)
async def revoke_token(
    form: TokenFormDep, revocation: TokenRevocationDep, context: ContextDep
) -> TokenRevoked:
    """RFC 7009. Revokes an access token for any audience, a refresh token together with its
    session, or an API key permanently. No other authentication is needed. An invalid token gets 200
    too, with `revoked` false.
    """
    is_revoked = await revocation.revoke(context, form.token.get_secret_value())
    return TokenRevoked() if is_revoked else TokenRevoked.nothing()


@router.post(
    "/introspect",
    operation_id="introspectToken",
    summary="Introspect a token",
    response_description="The claims of the token, or that it is not active.",
    response_model_exclude_none=True,
    openapi_extra=TOKEN_BODY,
    responses=error_docs(InvalidFormError, FormRequiredError, MissingTokenError, InvalidTokenError),
)
async def introspect_token(
    bearer: VerifiedBearer,
    form: TokenFormDep,
    introspection: TokenIntrospectionDep,
    context: ContextDep,
) -> Introspection:
    """RFC 7662. Returns the claims of one of your tokens, for any audience, or those of the access
    token that one of your API keys is exchanged for. For tokens of other users, and if you call
    with a token of an API key, your access token needs the scope `admin` or `introspect`.

    Otherwise, and for an expired or revoked token, the response is `{"active": false}`.
    """
    return await introspection.introspect(context, form.token.get_secret_value(), bearer)
