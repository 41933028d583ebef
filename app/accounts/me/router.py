from fastapi import APIRouter, status

from app.accounts.me.schemas import (
    Farewell,
    PasswordChange,
    PasswordChanged,
    ProfileChange,
    VerificationProof,
    VerificationSent,
)
from app.credentials.second_factors.dependencies import SecondFactorsDep
from app.credentials.second_factors.errors import (
    SecondFactorRequiredError,
    TooManyCodesError,
    WrongCodeError,
)
from app.http.error_responses import documented
from app.mail.dependencies import MailDep
from app.mail.errors import MailUnavailableError, NothingToVerifyError
from app.security.one_time_codes.errors import InvalidCodeError
from app.security.passwords import HashingOverloadedError
from app.security.rate_limits.errors import TooManyAttemptsError
from app.tokens.dependencies import NowDep
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


@router.get(
    "/me",
    operation_id="readOwnProfile",
    summary="Who am I?",
    responses=documented(MissingTokenError, InvalidTokenError),
)
async def read_own_profile(user: CurrentUser, users: UsersDep) -> Profile:
    """The account that the bearer token stands for."""
    return Profile.model_validate(await users.get(user.id))


@router.post(
    "/me/logout-everywhere",
    operation_id="logOutEverywhere",
    summary="End all of my tokens and sessions",
    responses=documented(MissingTokenError, InvalidTokenError),
)
async def log_out_everywhere(bearer: VerifiedBearer, users: UsersDep, now: NowDep) -> TokensRevoked:
    """The token that this call is made with included."""
    user_id, epoch = bearer.account
    await users.end_tokens(user_id, now, epoch)
    return TokensRevoked(user_id=user_id)
