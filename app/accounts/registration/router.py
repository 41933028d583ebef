from fastapi import APIRouter, Depends, status

from app.accounts.registration.dependencies import AdmitRegistration, refuse_if_closed
from app.http.error_responses import documented
from app.security.one_time_codes.errors import InvalidCodeError
from app.security.passwords import HashingOverloadedError
from app.security.rate_limits.errors import TooManyAttemptsError
from app.tokens.dependencies import NowDep
from app.users.dependencies import UsersDep
from app.users.errors import (
    InvitationRequiredError,
    RegistrationClosedError,
    UserExistsError,
)
from app.users.schemas import (
    NewUser,
    UserCreated,
)

router = APIRouter()


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
