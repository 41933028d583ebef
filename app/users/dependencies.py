"""The types of a route's arguments for the caller of a request."""

from typing import Annotated

from fastapi import Depends, Path, Request, Security

from app.database.ids import Id
from app.http.dependencies import ContextDep
from app.settings import Settings
from app.tokens.dependencies import BearerToken
from app.tokens.errors import (
    InsufficientScopeError,
    InvalidTokenError,
    LimitedTokenError,
    MissingTokenError,
)
from app.users.authenticated_user import AuthenticatedUser
from app.users.errors import SecondFactorNeededError
from app.users.service import Users
from app.users.token_cache import TokenChecker, VerifiedToken, require_network

# What to document for a route with OwnerBearer or AccountOwner, and for one with CurrentAdmin that
# only reads or also changes something.
OWNER_ERRORS = (MissingTokenError, InvalidTokenError, LimitedTokenError)
ADMIN_ERRORS = (MissingTokenError, InvalidTokenError, InsufficientScopeError)
ADMIN_CHANGE_ERRORS = (*ADMIN_ERRORS, LimitedTokenError)

UserId = Annotated[Id, Path(description="The user's id.", examples=[10])]


async def _users(request: Request) -> Users:
    users: Users = request.app.state.services.users
    return users


async def _token_checker(request: Request) -> TokenChecker:
    checker: TokenChecker = request.app.state.token_checker
    return checker


UsersDep = Annotated[Users, Depends(_users)]
TokenCheckerDep = Annotated[TokenChecker, Depends(_token_checker)]


async def _verified_bearer(
    token: BearerToken, checker: TokenCheckerDep, context: ContextDep
) -> VerifiedToken:
    verified = await _bearer_of_any_audience(token, checker, context)
    checker.require_audience(token, verified)
    return verified


VerifiedBearer = Annotated[VerifiedToken, Depends(_verified_bearer)]


async def _bearer_of_any_audience(
    token: BearerToken, checker: TokenCheckerDep, context: ContextDep
) -> VerifiedToken:
    verified = await checker.check_credential(context, token)
    require_network(context, verified)
    context.user_id = verified.user.id
    return verified


BearerOfAnyAudience = Annotated[VerifiedToken, Depends(_bearer_of_any_audience)]
"""The route must compare the audience."""


async def _owner_bearer(bearer: VerifiedBearer) -> VerifiedToken:
    if bearer.claims.is_limited or bearer.claims.api_key_id:
        raise LimitedTokenError
    return bearer


OwnerBearer = Annotated[VerifiedToken, Depends(_owner_bearer)]
"""A token that comes from a login and has all rights of the account. Nobody can turn a limited
token or an API key into more than it is."""


async def _account_owner(bearer: OwnerBearer) -> AuthenticatedUser:
    return bearer.user


AccountOwner = Annotated[AuthenticatedUser, Depends(_account_owner)]
"""The user of such a token."""


async def _current_admin(bearer: VerifiedBearer, request: Request) -> AuthenticatedUser:
    user = bearer.user
    if "admin" not in user.scopes:
        settings: Settings = request.app.state.settings
        required = settings.admin_second_factor == "required"
        raise SecondFactorNeededError if required else InsufficientScopeError
    if bearer.claims.api_key_id and request.method not in ("GET", "HEAD"):
        raise LimitedTokenError  # a key with `admin` may read
    return user


CurrentAdmin = Annotated[AuthenticatedUser, Security(_current_admin, scopes=["admin"])]
