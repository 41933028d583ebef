from typing import Annotated

from fastapi import APIRouter, Depends, Path, status

from app.codes.errors import InvalidCodeError
from app.error_responses import documented
from app.passwords import HashingOverloadedError
from app.throttle.errors import TooManyAttemptsError
from app.tokens.dependencies import NowDep
from app.tokens.errors import InsufficientScopeError, InvalidTokenError, MissingTokenError
from app.users.dependencies import (
    AdmitRegistration,
    CurrentAdmin,
    CurrentUser,
    UserId,
    UsersDep,
    VerifiedBearer,
    refuse_if_closed,
)
from app.users.errors import (
    InvitationRequiredError,
    LastAdminError,
    RegistrationClosedError,
    UserExistsError,
    UserNotFoundError,
)
from app.users.schemas import (
    NewUser,
    PermissionUpdated,
    Profile,
    TokensRevoked,
    UserCreated,
    UserRemoved,
)

router = APIRouter()

_FOR_ADMINS = (MissingTokenError, InvalidTokenError, InsufficientScopeError, UserNotFoundError)


@router.post(
    "/register-user",
    operation_id="registerUser",
    summary="Register a user",
    tags=["Users"],
    status_code=status.HTTP_201_CREATED,
    dependencies=[Depends(refuse_if_closed)],
    responses=documented(
        UserExistsError,
        RegistrationClosedError,
        InvitationRequiredError,
        InvalidCodeError,
        TooManyAttemptsError,
        HashingOverloadedError,
    ),
)
async def register_user(
    new_user: NewUser, users: UsersDep, admit: AdmitRegistration, now: NowDep
) -> UserCreated:
    """Create an account. It is enabled at once, so its owner can ask for a token."""
    invitation = new_user.invitation.get_secret_value() if new_user.invitation else None
    await admit(invitation)
    user_id = await users.register(
        new_user, now, invitation=invitation, is_counted=invitation is None
    )
    return UserCreated(user_id=user_id)


@router.get(
    "/me",
    operation_id="readOwnProfile",
    summary="Who am I?",
    tags=["Users"],
    responses=documented(MissingTokenError, InvalidTokenError),
)
async def read_own_profile(user: CurrentUser, users: UsersDep) -> Profile:
    """The account that the bearer token stands for."""
    return Profile.model_validate(await users.get(user.id))


@router.post(
    "/me/logout-everywhere",
    operation_id="logOutEverywhere",
    summary="End all of my tokens and sessions",
    tags=["Users"],
    responses=documented(MissingTokenError, InvalidTokenError),
)
async def log_out_everywhere(bearer: VerifiedBearer, users: UsersDep, now: NowDep) -> TokensRevoked:
    """The token that this call is made with included."""
    user_id, epoch = bearer.account
    await users.end_tokens(user_id, now, epoch)
    return TokensRevoked(user_id=user_id)


@router.post(
    "/users/{user_id}/revoke-tokens",
    operation_id="revokeTokensOfUser",
    summary="End all of a user's tokens and sessions",
    tags=["Administration"],
    responses=documented(*_FOR_ADMINS),
)
async def revoke_tokens_of_user(
    _: CurrentAdmin, user_id: UserId, users: UsersDep, now: NowDep
) -> TokensRevoked:
    """The user stays enabled and can log in again."""
    await users.end_tokens(user_id, now)
    return TokensRevoked(user_id=user_id)


@router.put(
    "/toggle-user-permission/{user_id}/{permission}",
    operation_id="toggleUserPermission",
    summary="Enable or disable a user",
    tags=["Administration"],
    responses=documented(
        MissingTokenError,
        InvalidTokenError,
        InsufficientScopeError,
        UserNotFoundError,
        LastAdminError,
    ),
)
async def toggle_user_permission(
    _: CurrentAdmin,
    user_id: UserId,
    permission: Annotated[int, Path(ge=0, le=1, description="1 enables, 0 disables.")],
    users: UsersDep,
    now: NowDep,
) -> PermissionUpdated:
    """Disabling ends the user's tokens at once. Enabling does not bring them back."""
    await users.set_enabled(user_id, now, enabled=permission == 1)
    return PermissionUpdated(user_id=user_id)


@router.delete(
    "/remove-user/{user_id}",
    operation_id="removeUser",
    summary="Remove a user",
    tags=["Administration"],
    responses=documented(
        MissingTokenError,
        InvalidTokenError,
        InsufficientScopeError,
        UserNotFoundError,
        LastAdminError,
    ),
)
async def remove_user(
    _: CurrentAdmin, user_id: UserId, users: UsersDep, now: NowDep
) -> UserRemoved:
    """The account and its tokens end at once. Its id is never given out again."""
    await users.remove(user_id, now)
    return UserRemoved()
