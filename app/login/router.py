from functools import partial

from fastapi import APIRouter

from app.credentials.second_factors.errors import TooManyCodesError
from app.errors import (
    InvalidFormError,
    InvalidRequestError,
    NotFoundError,
    UnsupportedMediaTypeError,
)
from app.http.addresses import is_well_known_suffix, public_url
from app.http.dependencies import ContextDep
from app.http.error_responses import error_docs
from app.login.dependencies import GRANT_BODY, GrantRequestDep, GrantsDep
from app.login.errors import (
    InvalidClientError,
    InvalidCredentialsError,
    InvalidGrantError,
    InvalidRefreshTokenError,
    InvalidScopeError,
    InvalidSubjectTokenError,
    MfaRequiredByFormError,
    MfaRequiredError,
    TooManyScopesError,
    UnsupportedGrantTypeError,
)
from app.login.schemas import EXCHANGE_GRANT, IssuedToken, ServerMetadata
from app.security.rate_limits.errors import TooManyAttemptsError
from app.tokens.dependencies import TokensDep
from app.tokens.errors import InvalidTargetError
from app.tokens.scopes import SCOPE_DESCRIPTIONS

router = APIRouter()


@router.post(
    "/token",
    operation_id="issueToken",
    summary="Get an access token",
    response_description="An access token, and a refresh token if `offline_access` was requested.",
    tags=["Registration and login"],
    response_model_exclude_none=True,
    openapi_extra=GRANT_BODY,
    responses=error_docs(
        InvalidGrantError,
        InvalidRefreshTokenError,
        MfaRequiredByFormError,
        MfaRequiredError,
        TooManyCodesError,
        UnsupportedGrantTypeError,
        InvalidScopeError,
        TooManyScopesError,
        InvalidTargetError,
        InvalidSubjectTokenError,
        InvalidClientError,
        InvalidFormError,
        InvalidCredentialsError,
        UnsupportedMediaTypeError,
        InvalidRequestError,
        TooManyAttemptsError,
    ),
)
async def issue_token(
    request: GrantRequestDep, grants: GrantsDep, context: ContextDep
) -> IssuedToken:
    """Send username and password as JSON, or as an OAuth2 password form (RFC 6749, 4.3). A failed
    login gets 401 for JSON and 400 for a form.

    If your account has a second factor, also send its code as `otp`. With the scope
    `offline_access` you get a `refresh_token` too: send it here to get the next access token.

    A token with less than all of your rights, by `scope` or `exclude_scope`, or for one API, by
    `resource`, works at APIs. It cannot change your account: of `/me`, it can only read `GET /me`.

    An API key works as a bearer token itself. APIs exchange it for an access token here (RFC 8693),
    so that they can verify it without the service. A service account gets an access token with its
    name and a key as client credentials (RFC 6749, 4.4).
    """
    return await grants.issue(context, request)


@router.get(
    "/.well-known/oauth-authorization-server",
    operation_id="readServerMetadata",
    summary="Get the server metadata",
    response_description="The metadata.",
    tags=["Verification"],
    response_model_exclude_none=True,
)
async def read_server_metadata(tokens: TokensDep) -> ServerMetadata:
    """RFC 8414. The URLs begin with the setting `ISSUER`."""
    url = partial(public_url, tokens.issuer)
    return ServerMetadata(
        issuer=tokens.issuer,
        token_endpoint=url("/token"),
        jwks_uri=url("/.well-known/jwks.json") if tokens.keyring.public_jwks() else None,
        revocation_endpoint=url("/revoke"),
        introspection_endpoint=url("/introspect"),
        service_documentation=url("/docs"),
        scopes_supported=sorted(SCOPE_DESCRIPTIONS),
        response_types_supported=[],
        grant_types_supported=["password", "refresh_token", "client_credentials", EXCHANGE_GRANT],
        token_endpoint_auth_methods_supported=["none", "client_secret_basic", "client_secret_post"],
        revocation_endpoint_auth_methods_supported=["none"],
    )


@router.get(
    "/.well-known/oauth-authorization-server/{path:path}",
    response_model_exclude_none=True,
    include_in_schema=False,
)
async def read_metadata_of_path(path: str, tokens: TokensDep) -> ServerMetadata:
    """Where clients look if ISSUER has a path (RFC 8414, 3.1)."""
    if not is_well_known_suffix(tokens.issuer, path):
        raise NotFoundError
    return await read_server_metadata(tokens)
