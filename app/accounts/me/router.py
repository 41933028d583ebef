from fastapi import APIRouter, status

from app.accounts.me.schemas import (
    AccountDeletion,
    EmailConfirmation,
    PasswordChange,
    PasswordChanged,
    ProfileChange,
    VerificationSent,
)
from app.credentials.second_factors.dependencies import SecondFactorsDep
from app.credentials.second_factors.errors import (
    SecondFactorRequiredError,
    TooManyCodesError,
    WrongCodeError,
)
from app.errors import InvalidRequestError
from app.http.dependencies import ContextDep
from app.http.error_responses import error_docs
from app.mail.dependencies import MailDep
from app.mail.errors import MailUnavailableError, NothingToVerifyError
from app.security.one_time_codes.errors import InvalidCodeError
from app.security.rate_limits.errors import TooManyAttemptsError
from app.tokens.errors import InvalidTokenError, MissingTokenError
from app.users.dependencies import CurrentUser, UsersDep, VerifiedBearer
from app.users.errors import LastAdminError, WrongPasswordError
from app.users.schemas import (
    Profile,
    TokensRevoked,
    UserRemoved,
)

router = APIRouter(tags=["My account"])

_ERRORS = (
    MissingTokenError,
    InvalidTokenError,
    WrongPasswordError,
    SecondFactorRequiredError,
    WrongCodeError,
    TooManyCodesError,
    TooManyAttemptsError,
    InvalidRequestError,
)


@router.get(
    "/me",
    operation_id="readOwnProfile",
    summary="Get my account",
    response_description="Your account.",
    responses=error_docs(MissingTokenError, InvalidTokenError),
)
async def read_own_profile(user: CurrentUser, users: UsersDep, context: ContextDep) -> Profile:
    """The account of the access token's user."""
    return Profile.model_validate(await users.get(context, user.id))


@router.post(
    "/me/password",
    operation_id="changeOwnPassword",
    summary="Change my password",
    response_description="The password was changed, and all your tokens and sessions were revoked.",
    responses=error_docs(*_ERRORS),
)
async def change_own_password(
    user: CurrentUser,
    change: PasswordChange,
    factors: SecondFactorsDep,
    users: UsersDep,
    context: ContextDep,
) -> PasswordChanged:
    """Revokes all of your tokens and sessions, including the token of this request."""
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
    response_description="Your account after the change.",
    responses=error_docs(*_ERRORS),
)
async def change_own_profile(
    user: CurrentUser,
    change: ProfileChange,
    factors: SecondFactorsDep,
    users: UsersDep,
    context: ContextDep,
) -> Profile:
    """An empty string removes the address. If the service sends mail, it sends a code to a new
    address: confirm it with `POST /me/email-verification/confirm`."""
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
    summary="Send a verification code to my e-mail address",
    response_description="A code is mailed to your address.",
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
    user: CurrentUser, mail: MailDep, context: ContextDep
) -> VerificationSent:
    """The service also sends one after registration and after each change of the address."""
    await mail.request_verification(context, user.id)
    return VerificationSent()


@router.post(
    "/me/email-verification/confirm",
    operation_id="confirmEmail",
    summary="Confirm my e-mail address",
    response_description="Your account, with the address confirmed.",
    responses=error_docs(
        MissingTokenError, InvalidTokenError, InvalidCodeError, InvalidRequestError
    ),
)
async def confirm_email(
    user: CurrentUser, proof: EmailConfirmation, users: UsersDep, context: ContextDep
) -> Profile:
    """Send the code from the e-mail. It works once, for this account only, and expires after a
    day."""
    verified = await users.verify_email(context, user.id, proof.code.get_secret_value())
    return Profile.model_validate(verified)


@router.delete(
    "/me",
    operation_id="removeOwnAccount",
    summary="Delete my account",
    response_description="Your account was deleted.",
    responses=error_docs(*_ERRORS, LastAdminError),
)
async def remove_own_account(
    user: CurrentUser,
    deletion: AccountDeletion,
    factors: SecondFactorsDep,
    users: UsersDep,
    context: ContextDep,
) -> UserRemoved:
    """Deletes the account and revokes its tokens at once. The id is never used again."""
    password = deletion.password.get_secret_value()
    proven = await factors.reauthenticate(context, "user.remove", user.id, password, deletion.otp)
    await users.remove(context, user.id, proven.token_version)
    return UserRemoved()


@router.post(
    "/me/logout-everywhere",
    operation_id="logOutEverywhere",
    summary="Log out everywhere",
    response_description="All your tokens and sessions were revoked.",
    responses=error_docs(MissingTokenError, InvalidTokenError),
)
async def log_out_everywhere(
    bearer: VerifiedBearer, users: UsersDep, context: ContextDep
) -> TokensRevoked:
    """Revokes all of your tokens and sessions, including the token of this request."""
    user_id, token_version = bearer.user_version
    await users.revoke_tokens(context, user_id, token_version)
    return TokensRevoked(user_id=user_id)
