from typing import Annotated

from fastapi import APIRouter, Depends, Request

from app.caller import caller_of
from app.database import SessionDep
from app.error_responses import documented
from app.events import events_of
from app.own_account.errors import WrongPasswordError
from app.own_account.schemas import Farewell, PasswordChange, PasswordChanged, ProfileChange
from app.own_account.service import OwnAccount
from app.passwords import HashingOverloadedError
from app.throttle.errors import TooManyAttemptsError
from app.tokens.dependencies import NowDep
from app.tokens.errors import InvalidTokenError, MissingTokenError
from app.users.dependencies import CurrentUser, users_of
from app.users.errors import LastAdminError
from app.users.schemas import Profile, UserRemoved

router = APIRouter(tags=["Users"])

_REFUSALS = (
    MissingTokenError,
    InvalidTokenError,
    WrongPasswordError,
    TooManyAttemptsError,
    HashingOverloadedError,
)


async def _own_account(request: Request, session: SessionDep) -> OwnAccount:
    state = request.app.state
    return OwnAccount(
        session,
        users_of(request, session),
        state.passwords,
        state.throttle,
        events_of(request, session),
        caller_of(request),
    )


OwnAccountDep = Annotated[OwnAccount, Depends(_own_account)]


@router.post(
    "/me/password",
    operation_id="changeOwnPassword",
    summary="Change my password",
    responses=documented(*_REFUSALS),
)
async def change_own_password(
    user: CurrentUser, change: PasswordChange, account: OwnAccountDep, now: NowDep
) -> PasswordChanged:
    """Ends all of the user's tokens and sessions, the one of this call included."""
    await account.change_password(user.id, change.password, change.new_password, now)
    return PasswordChanged(user_id=user.id)


@router.patch(
    "/me",
    operation_id="changeOwnProfile",
    summary="Change my e-mail address",
    responses=documented(*_REFUSALS),
)
async def change_own_profile(
    user: CurrentUser, change: ProfileChange, account: OwnAccountDep, now: NowDep
) -> Profile:
    """`null` takes the address away."""
    changed = await account.change_email(user.id, change.password, change.email, now)
    return Profile.model_validate(changed)


@router.delete(
    "/me",
    operation_id="removeOwnAccount",
    summary="Remove my account",
    responses=documented(*_REFUSALS, LastAdminError),
)
async def remove_own_account(
    user: CurrentUser, farewell: Farewell, account: OwnAccountDep, now: NowDep
) -> UserRemoved:
    """The account and its tokens end at once. Its id is never given out again."""
    await account.remove(user.id, farewell.password, now)
    return UserRemoved()
