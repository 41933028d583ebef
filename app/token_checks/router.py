from typing import Annotated

from fastapi import APIRouter, Path, Response

from app.context import CallerDep
from app.errors import InvalidFormError, UnsupportedMediaTypeError
from app.http.error_responses import documented
from app.security.rate_limits.errors import TooManyAttemptsError
from app.token_checks.dependencies import (
    SCOPE_PARAMETER,
    TOKEN_BODY,
    VERIFY_METHODS,
    AllowedUser,
    IssuedTokensDep,
    TokenFormDep,
)
from app.token_checks.schemas import (
    IDENTITY_HEADERS,
    Introspection,
    TokenRevoked,
    TokenStatus,
    identity_headers,
)
from app.tokens.dependencies import NowDep
from app.tokens.errors import InsufficientScopeError, InvalidTokenError, MissingTokenError
from app.users.dependencies import CurrentUser, VerificationDep

router = APIRouter()


@router.get(
    "/token_status/{token}",
    operation_id="readTokenStatus",
    summary="Does this token hold?",
    tags=["Tokens"],
    responses=documented(InvalidTokenError),
)
async def read_token_status(
    token: Annotated[str, Path(examples=["eyJhbGciOiJFUzI1NiIs…"])],
    verification: VerificationDep,
    caller: CallerDep,
    now: NowDep,
) -> TokenStatus:
    """Valid: signed here, not expired, not revoked, and its user exists and is enabled."""
    verified = await verification.verify(token, now)
    caller.user_id = verified.holder.id
    return TokenStatus()


@router.api_route("/verify", methods=VERIFY_METHODS, include_in_schema=False)
@router.api_route("/verify/{path:path}", methods=VERIFY_METHODS, include_in_schema=False)
@router.get(
    "/verify",
    operation_id="verifyToken",
    summary="Does the bearer token hold, and whose is it?",
    tags=["Tokens"],
    openapi_extra=SCOPE_PARAMETER,
    responses={
        200: {
            "headers": {
                name: {"description": what, "schema": {"type": "string"}}
                for name, what in IDENTITY_HEADERS.items()
            }
        },
        **documented(MissingTokenError, InvalidTokenError, InsufficientScopeError),
    },
)
async def verify_token(user: AllowedUser, response: Response) -> TokenStatus:
    """For proxies and APIs that ask about each request: send on its Authorization header.

    Any method will do, as will any path below this one, since some proxies ask with those of the
    request. A body is not read.
    """
    response.raw_headers.extend(identity_headers(user))
    return TokenStatus()


@router.post(
    "/revoke",
    operation_id="revokeToken",
    summary="End one token",
    tags=["Tokens"],
    openapi_extra=TOKEN_BODY,
    responses=documented(InvalidFormError, UnsupportedMediaTypeError, TooManyAttemptsError),
)
async def revoke_token(form: TokenFormDep, tokens: IssuedTokensDep, now: NowDep) -> TokenRevoked:
    """RFC 7009: an access token ends alone, a refresh token with its whole session.

    Whoever has a token may end it. The answer is the same if it was not valid before.

    429 answers a user whose access tokens are revoked too often (600 at once, 600 an hour by
    default). Refresh tokens, `DELETE /me/sessions/{session_id}` and `POST /me/logout-everywhere`
    have no such limit.
    """
    await tokens.revoke(form.token.get_secret_value(), now)
    return TokenRevoked()


@router.post(
    "/introspect",
    operation_id="introspectToken",
    summary="What does this token say?",
    tags=["Tokens"],
    response_model_exclude_none=True,
    openapi_extra=TOKEN_BODY,
    responses=documented(
        InvalidFormError, UnsupportedMediaTypeError, MissingTokenError, InvalidTokenError
    ),
)
async def introspect_token(
    asker: CurrentUser, form: TokenFormDep, tokens: IssuedTokensDep, now: NowDep
) -> Introspection:
    """RFC 7662, for administrators, for accounts with scope `introspect`, and for its own holder.

    To anybody else, as to everybody once it has ended, a token is `{"active": false}`.
    """
    return await tokens.introspect(form.token.get_secret_value(), asker, now)
