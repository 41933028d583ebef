from typing import Annotated

from fastapi import APIRouter, Path, Request

from app.auth.dependencies import TOKEN_REQUEST_BODY, CredentialsDep, LoginDep
from app.auth.errors import (
    InvalidCredentialsError,
    InvalidFormError,
    InvalidGrantError,
    UnsupportedGrantTypeError,
)
from app.auth.schemas import IssuedToken, TokenStatus
from app.error_responses import documented
from app.errors import InvalidRequestError, UnsupportedMediaTypeError
from app.passwords import HashingOverloadedError
from app.tokens.dependencies import NowDep, TokensDep
from app.tokens.errors import InvalidTokenError
from app.users.dependencies import UsersDep

router = APIRouter(tags=["Tokens"])


@router.post(
    "/token",
    operation_id="issueToken",
    summary="Trade a password for a token",
    openapi_extra=TOKEN_REQUEST_BODY,
    responses=documented(
        InvalidGrantError,
        UnsupportedGrantTypeError,
        InvalidFormError,
        InvalidCredentialsError,
        UnsupportedMediaTypeError,
        InvalidRequestError,
        HashingOverloadedError,
    ),
)
async def issue_token(
    request: Request, credentials: CredentialsDep, login: LoginDep, now: NowDep
) -> IssuedToken:
    """Send the credentials as JSON, or as an OAuth2 password form (RFC 6749, 4.3).

    A refused form answers 400 as the RFC has it, refused JSON 401.
    """
    user, issued = await login.trade(credentials, now)
    request.state.user_id = user.id
    return issued


@router.get(
    "/token_status/{token}",
    operation_id="readTokenStatus",
    summary="Does this token hold?",
    responses=documented(InvalidTokenError),
)
async def read_token_status(
    token: Annotated[str, Path(examples=["eyJhbGciOiJFUzI1NiIs…"])],
    request: Request,
    tokens: TokensDep,
    users: UsersDep,
    now: NowDep,
) -> TokenStatus:
    """Valid: signed here, not expired, and its user exists, is enabled and has not ended it."""
    holder = await users.holder(tokens.read(token, now))
    request.state.user_id = holder.id
    return TokenStatus()
