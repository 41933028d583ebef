from fastapi import APIRouter, status

from app.codes.errors import InvalidCodeError
from app.error_responses import documented
from app.mail.dependencies import MailDep
from app.mail.errors import MailUnavailableError, NothingToVerifyError
from app.own_account.schemas import (
    Farewell,
    PasswordChange,
    PasswordChanged,
    ProfileChange,
    VerificationProof,
    VerificationSent,
)
from app.passwords import HashingOverloadedError
from app.second_factors.dependencies import SecondFactorsDep
from app.second_factors.errors import (
    SecondFactorRequiredError,
    TooManyCodesError,
    WrongCodeError,
)
from app.throttle.errors import TooManyAttemptsError
from app.tokens.dependencies import NowDep
from app.tokens.errors import InvalidTokenError, MissingTokenError
from app.users.dependencies import CurrentUser, UsersDep
from app.users.errors import LastAdminError, WrongPasswordError
from app.users.schemas import Profile, UserRemoved

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


@router.post(
    "/me/password",
    operation_id="changeOwnPassword",
    summary="Change my password",
    responses=documented(*_REFUSALS),
)
async def change_own_password(
    user: CurrentUser,
    change: PasswordChange,
    factors: SecondFactorsDep,
    users: UsersDep,
    now: NowDep,
) -> PasswordChanged:
    """Ends all of the user's tokens and sessions, the one of this call included."""
    old, new = change.password.get_secret_value(), change.new_password.get_secret_value()
    proven = await factors.reauthenticate("user.change_password", user.id, old, change.otp, now)
    await users.change_password(user.id, new, now, field="new_password", epoch=proven.token_epoch)
    return PasswordChanged(user_id=user.id)


@router.patch(
    "/me",
    operation_id="changeOwnProfile",
    summary="Change my e-mail address",
    responses=documented(*_REFUSALS),
)
async def change_own_profile(
    user: CurrentUser,
    change: ProfileChange,
    factors: SecondFactorsDep,
    users: UsersDep,
    now: NowDep,
) -> Profile:
    """A new address is sent a code, unless this user has had too many sent; when the next one may
    go is what `POST /me/email-verification` answers. An empty text takes the address away."""
    password = change.password.get_secret_value()
    proven = await factors.reauthenticate("user.change_email", user.id, password, change.otp, now)
    changed = await users.change(user.id, now, epoch=proven.token_epoch, **change.changes())
    return Profile.model_validate(changed)


@router.post(
    "/me/email-verification",
    operation_id="sendEmailVerification",
    summary="Send a code to my e-mail address",
    status_code=status.HTTP_202_ACCEPTED,
    responses=documented(
        MissingTokenError,
        InvalidTokenError,
        MailUnavailableError,
        NothingToVerifyError,
        TooManyAttemptsError,
    ),
)
async def send_email_verification(user: CurrentUser, mail: MailDep) -> VerificationSent:
    """One is sent by itself after a registration, and when the address changes."""
    await mail.verify(user.id)
    return VerificationSent()


@router.post(
    "/me/email-verification/confirm",
    operation_id="confirmEmail",
    summary="Confirm my e-mail address",
    responses=documented(MissingTokenError, InvalidTokenError, InvalidCodeError),
)
async def confirm_email(
    user: CurrentUser, proof: VerificationProof, users: UsersDep, now: NowDep
) -> Profile:
    """With the code that was sent there. It is of use once, for a day, to this user alone."""
    verified = await users.verify_email(user.id, proof.code.get_secret_value(), now)
    return Profile.model_validate(verified)


@router.delete(
    "/me",
    operation_id="removeOwnAccount",
    summary="Remove my account",
    responses=documented(*_REFUSALS, LastAdminError),
)
async def remove_own_account(
    user: CurrentUser, farewell: Farewell, factors: SecondFactorsDep, users: UsersDep, now: NowDep
) -> UserRemoved:
    """The account and its tokens end at once. Its id is never given out again."""
    password = farewell.password.get_secret_value()
    proven = await factors.reauthenticate("user.remove", user.id, password, farewell.otp, now)
    await users.remove(user.id, now, proven.token_epoch)
    return UserRemoved()
