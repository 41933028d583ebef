from fastapi import APIRouter

from app.credentials.second_factors.errors import TooManyCodesError
from app.errors import InvalidFormError, InvalidRequestError, UnsupportedMediaTypeError
from app.http.error_responses import documented
from app.login.dependencies import GRANT_BODY, GrantRequestDep, LoginDep
from app.login.errors import (
    InvalidCredentialsError,
    InvalidGrantError,
    InvalidRefreshTokenError,
    MfaRequiredByFormError,
    MfaRequiredError,
    UnsupportedGrantTypeError,
)
from app.login.schemas import IssuedToken, ServerMetadata
from app.security.passwords import HashingOverloadedError
from app.security.rate_limits.errors import TooManyAttemptsError
from app.tokens.dependencies import NowDep, TokensDep
from app.tokens.scopes import INTROSPECTION_SCOPES, OFFLINE_ACCESS

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
