from fastapi import APIRouter, status

from app.accounts.me.schemas import (
    AccountDeletion,
    EmailConfirmation,
    PasswordChange,
    PasswordChanged,
    ProfileChange,
    VerificationSent,
)
from app.context import ContextDep
from app.credentials.second_factors.dependencies import SecondFactorsDep
from app.credentials.second_factors.errors import (
    SecondFactorRequiredError,
    TooManyCodesError,
    WrongCodeError,
)
from app.http.error_responses import error_docs
from app.mail.dependencies import MailDep
from app.mail.errors import MailUnavailableError, NothingToVerifyError
from app.security.one_time_codes.errors import InvalidCodeError
from app.security.passwords import HashingOverloadedError
from app.security.rate_limits.errors import TooManyAttemptsError
from app.tokens.errors import InvalidTokenError, MissingTokenError
from app.users.dependencies import CurrentUser, UsersDep, VerifiedBearer
from app.users.errors import LastAdminError, WrongPasswordError
from app.users.schemas import (
    Profile,
    TokensRevoked,
    UserRemoved,
)

router = APIRouter(tags=["Users"])

_REFUSALS = (
    MissingTokenError,
    InvalidTokenError,
    WrongPasswordError,
    SecondFactorRequiredError,
    WrongCodeError,
    TooManyCodesError,
    TooManyAttemptsError,
    HashingOverloadedError,
)


@router.get(
    "/me",
    operation_id="readOwnProfile",
    summary="Who am I?",
    responses=error_docs(MissingTokenError, InvalidTokenError),
)
async def read_own_profile(context: ContextDep, user: CurrentUser, users: UsersDep) -> Profile:
    """The account that the bearer token stands for."""
    return Profile.model_validate(await users.get(context, user.id))


@router.post(
    "/me/password",
    operation_id="changeOwnPassword",
    summary="Change my password",
    responses=error_docs(*_REFUSALS),
)
async def change_own_password(
    user: CurrentUser,
    change: PasswordChange,
    factors: SecondFactorsDep,
    users: UsersDep,
    context: ContextDep,
) -> PasswordChanged:
    """Ends all of the user's tokens and sessions, the one of this call included."""
    old, new = change.password.get_secret_value(), change.new_password.get_secret_value()
    proven = await factors.reauthenticate(context, "user.change_password", user.id, old, change.otp)
    await users.change_password(
        context, user.id, new, field="new_password", token_version=proven.token_version
    )
    return PasswordChanged(user_id=user.id)


@router.patch(
    "/me",
    operation_id="changeOwnProfile",
    summary="Change my e-mail address",
    responses=error_docs(*_REFUSALS),
)
async def change_own_profile(
    user: CurrentUser,
    change: ProfileChange,
    factors: SecondFactorsDep,
    users: UsersDep,
    context: ContextDep,
) -> Profile:
    """A new address is sent a code, unless this user has had too many sent; when the next one may
    go is what `POST /me/email-verification` answers. An empty text takes the address away."""
    password = change.password.get_secret_value()
    proven = await factors.reauthenticate(
        context, "user.change_email", user.id, password, change.otp
    )
    changed = await users.change(
        context, user.id, token_version=proven.token_version, **change.changes()
    )
    return Profile.model_validate(changed)


@router.post(
    "/me/email-verification",
    operation_id="sendEmailVerification",
    summary="Send a code to my e-mail address",
    status_code=status.HTTP_202_ACCEPTED,
    responses=error_docs(
        MissingTokenError,
        InvalidTokenError,
        MailUnavailableError,
        NothingToVerifyError,
        TooManyAttemptsError,
    ),
)
async def send_email_verification(
    context: ContextDep, user: CurrentUser, mail: MailDep
) -> VerificationSent:
    """One is sent by itself after a registration, and when the address changes."""
    await mail.request_verification(context, user.id)
    return VerificationSent()


@router.post(
    "/me/email-verification/confirm",
    operation_id="confirmEmail",
    summary="Confirm my e-mail address",
    responses=error_docs(MissingTokenError, InvalidTokenError, InvalidCodeError),
)
async def confirm_email(
    user: CurrentUser, proof: EmailConfirmation, users: UsersDep, context: ContextDep
) -> Profile:
    """With the code that was sent there. It is of use once, for a day, to this user alone."""
    verified = await users.verify_email(context, user.id, proof.code.get_secret_value())
    return Profile.model_validate(verified)


@router.delete(
    "/me",
    operation_id="removeOwnAccount",
    summary="Remove my account",
    responses=error_docs(*_REFUSALS, LastAdminError),
)
async def remove_own_account(
    user: CurrentUser,
    farewell: AccountDeletion,
    factors: SecondFactorsDep,
    users: UsersDep,
    context: ContextDep,
) -> UserRemoved:
    """The account and its tokens end at once. Its id is never given out again."""
    password = farewell.password.get_secret_value()
    proven = await factors.reauthenticate(context, "user.remove", user.id, password, farewell.otp)
    await users.remove(context, user.id, proven.token_version)
    return UserRemoved()


@router.post(
    "/me/logout-everywhere",
    operation_id="logOutEverywhere",
    summary="End all of my tokens and sessions",
    responses=error_docs(MissingTokenError, InvalidTokenError),
)
async def log_out_everywhere(
    bearer: VerifiedBearer, users: UsersDep, context: ContextDep
) -> TokensRevoked:
    """The token that this call is made with included."""
    user_id, token_version = bearer.user_version
    await users.revoke_tokens(context, user_id, token_version)
    return TokensRevoked(user_id=user_id)
