from typing import Annotated

from fastapi import APIRouter, Path, Response

from app.auth.dependencies import (
    GRANT_BODY,
    SCOPE_PARAMETER,
    TOKEN_BODY,
    VERIFY_METHODS,
    AllowedUser,
    GrantRequestDep,
    IssuedTokensDep,
    LoginDep,
    TokenFormDep,
)
from app.auth.errors import (
    InvalidCredentialsError,
    InvalidFormError,
    InvalidGrantError,
    InvalidRefreshTokenError,
    MfaRequiredByFormError,
    MfaRequiredError,
    UnsupportedGrantTypeError,
)
from app.auth.schemas import (
    IDENTITY_HEADERS,
    Introspection,
    IssuedToken,
    ServerMetadata,
    TokenRevoked,
    TokenStatus,
    identity_headers,
)
from app.auth.service import INTROSPECTION_SCOPES, OFFLINE_ACCESS
from app.caller import CallerDep
from app.error_responses import documented
from app.errors import InvalidRequestError, UnsupportedMediaTypeError
from app.passwords import HashingOverloadedError
from app.second_factors.errors import TooManyCodesError
from app.throttle.errors import TooManyAttemptsError
from app.tokens.dependencies import NowDep, TokensDep
from app.tokens.errors import InsufficientScopeError, InvalidTokenError, MissingTokenError
from app.users.dependencies import CurrentUser, VerificationDep

router = APIRouter()


@router.post(
    "/token",
    operation_id="issueToken",
    summary="Trade a password for a token",
    tags=["Tokens"],
    response_model_exclude_none=True,
    openapi_extra=GRANT_BODY,
    responses=documented(
        InvalidGrantError,
        InvalidRefreshTokenError,
        MfaRequiredByFormError,
        MfaRequiredError,
        TooManyCodesError,
        UnsupportedGrantTypeError,
        InvalidFormError,
        InvalidCredentialsError,
        UnsupportedMediaTypeError,
        InvalidRequestError,
        TooManyAttemptsError,
        HashingOverloadedError,
    ),
)
async def issue_token(grant: GrantRequestDep, login: LoginDep, now: NowDep) -> IssuedToken:
    """Send the credentials as JSON, or as an OAuth2 password form (RFC 6749, 4.3).

    A refused form answers 400 as the RFC has it, refused JSON 401. With `scope` offline_access
    the answer has a `refresh_token`, to be traded here for the next token (RFC 6749, 6).

    `mfa_required` says that the password is right and that `otp` has to come with it: the code of
    the user's second factor. A refresh token needs none.

    429 answers after too many failed logins, and a user who logs in too often (600 at once, 600 an
    hour by default) or renews a session more than 120 times at once and 240 times an hour. A
    refresh token that was refused so is not used up.
    """
    return await login.trade(grant, now)


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


@router.get(
    "/.well-known/oauth-authorization-server",
    operation_id="readServerMetadata",
    summary="What this authorization server offers",
    tags=["Verification"],
    response_model_exclude_none=True,
)
async def read_server_metadata(tokens: TokensDep) -> ServerMetadata:
    """RFC 8414. `issuer` is the setting ISSUER, and the addresses begin with it."""
    issuer = tokens.issuer.rstrip("/")
    return ServerMetadata(
        issuer=tokens.issuer,
        token_endpoint=f"{issuer}/token",
        jwks_uri=f"{issuer}/.well-known/jwks.json" if tokens.keyring.public_jwks() else None,
        revocation_endpoint=f"{issuer}/revoke",
        introspection_endpoint=f"{issuer}/introspect",
        service_documentation=f"{issuer}/docs",
        scopes_supported=sorted({OFFLINE_ACCESS, *INTROSPECTION_SCOPES}),
        response_types_supported=[],
        grant_types_supported=["password", "refresh_token"],
        token_endpoint_auth_methods_supported=["none"],
        revocation_endpoint_auth_methods_supported=["none"],
    )
