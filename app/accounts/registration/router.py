from fastapi import APIRouter, status

from app.accounts.registration.dependencies import RegistrationDep
from app.errors import InvalidRequestError
from app.http.dependencies import ContextDep
from app.http.error_responses import error_docs
from app.security.one_time_codes.errors import InvalidCodeError
from app.security.rate_limits.errors import TooManyAttemptsError
from app.users.errors import InvitationRequiredError, RegistrationClosedError, UserExistsError
from app.users.schemas import NewUser, UserCreated

router = APIRouter()


@router.post(
    "/register-user",
    operation_id="registerUser",
    summary="Register a user",
    response_description="The user was created.",
    tags=["Registration and login"],
    status_code=status.HTTP_201_CREATED,
    responses=error_docs(
        UserExistsError,
        RegistrationClosedError,
        InvitationRequiredError,
        InvalidCodeError,
        InvalidRequestError,
        TooManyAttemptsError,
    ),
)
async def register_user(
    new_user: NewUser, registration: RegistrationDep, context: ContextDep
) -> UserCreated:
    """Create an account. Log in with `POST /token` right away."""
    return UserCreated(user_id=await registration.register(context, new_user))
