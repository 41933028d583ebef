from fastapi import APIRouter, status

from app.accounts.registration.dependencies import RegistrationDep
from app.context import ContextDep
from app.http.error_responses import error_docs
from app.security.one_time_codes.errors import InvalidCodeError
from app.security.passwords import HashingOverloadedError
from app.security.rate_limits.errors import TooManyAttemptsError
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
    responses=error_docs(
        UserExistsError,
        RegistrationClosedError,
        InvitationRequiredError,
        InvalidCodeError,
        TooManyAttemptsError,
        HashingOverloadedError,
    ),
)
async def register_user(
    new_user: NewUser, registration: RegistrationDep, context: ContextDep
) -> UserCreated:
    """Create an account. It is enabled at once, so its owner can get a token."""
    return UserCreated(user_id=await registration.register(context, new_user))
