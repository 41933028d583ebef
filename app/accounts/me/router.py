from typing import Annotated

from fastapi import APIRouter, Body, status

from app.accounts.me.schemas import (
    AccountDeletion,
    EmailConfirmation,
    EverywhereLogout,
    PasswordChange,
    PasswordChanged,
    ProfileChange,
    VerificationSent,
)
from app.context import RequestContext
from app.credentials.api_keys.dependencies import ApiKeysDep
from app.credentials.second_factors.dependencies import SecondFactorsDep
from app.credentials.second_factors.errors import (
    SecondFactorRequiredError,
    TooManyCodesError,
    WrongCodeError,
)
from app.errors import InvalidRequestError
from app.groups.service import find_group_names
from app.http.dependencies import ContextDep
from app.http.error_responses import error_docs
from app.mail.dependencies import MailDep
from app.mail.errors import MailUnavailableError, NothingToVerifyError
from app.security.one_time_codes.errors import InvalidCodeError
from app.security.rate_limits.errors import TooManyAttemptsError
from app.tokens.errors import InvalidTokenError, MissingTokenError
from app.tokens.scopes import EMAIL
from app.users.dependencies import OWNER_ERRORS, AccountOwner, OwnerBearer, UsersDep, VerifiedBearer
from app.users.errors import LastAdminError, WrongPasswordError
from app.users.models import User
from app.users.schemas import (
    Profile,
    TokensRevoked,
    UserRemoved,
)

router = APIRouter(tags=["My account"])

_REAUTHENTICATION_ERRORS = (
    *OWNER_ERRORS,
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
async def read_own_profile(bearer: VerifiedBearer, users: UsersDep, context: ContextDep) -> Profile:
    """The account of the access token's user. A limited token, and that of an API key, needs the
    scope `email` to read the address."""
    profile = await _profile(context, await users.get(context, bearer.user.id))
    may_read_email = not bearer.claims.is_limited or EMAIL in bearer.user.scopes
    return profile if may_read_email else profile.without_email()


@router.post(
    "/me/password",
    operation_id="changeOwnPassword",
    summary="Change my password",
    response_description="The password was changed, and all your tokens and sessions were revoked.",
    responses=error_docs(*_REAUTHENTICATION_ERRORS),
)
async def change_own_password(
    user: AccountOwner,
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
    responses=error_docs(*_REAUTHENTICATION_ERRORS),
)
async def change_own_profile(
    user: AccountOwner,
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
    return await _profile(context, changed)


@router.post(
    "/me/email-verification",
    operation_id="sendEmailVerification",
    summary="Send a verification code to my e-mail address",
    response_description="A code is mailed to your address.",
    status_code=status.HTTP_202_ACCEPTED,
    responses=error_docs(
        *OWNER_ERRORS,
        MailUnavailableError,
        NothingToVerifyError,
        TooManyAttemptsError,
    ),
)
async def send_email_verification(
    user: AccountOwner, mail: MailDep, context: ContextDep
) -> VerificationSent:
    """The service also sends one after registration and after each change of the address."""
    await mail.request_verification(context, user.id)
    return VerificationSent()


@router.post(
    "/me/email-verification/confirm",
    operation_id="confirmEmail",
    summary="Confirm my e-mail address",
    response_description="Your account, with the address confirmed.",
    responses=error_docs(*OWNER_ERRORS, InvalidCodeError, InvalidRequestError),
)
async def confirm_email(
    user: AccountOwner, proof: EmailConfirmation, users: UsersDep, context: ContextDep
) -> Profile:
    """Send the code from the e-mail. It works once, for this account only, and expires after a
    day."""
    verified = await users.verify_email(context, user.id, proof.code.get_secret_value())
    return await _profile(context, verified)


@router.delete(
    "/me",
    operation_id="removeOwnAccount",
    summary="Delete my account",
    response_description="Your account was deleted.",
    responses=error_docs(*_REAUTHENTICATION_ERRORS, LastAdminError),
)
async def remove_own_account(
    user: AccountOwner,
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
    responses=error_docs(*OWNER_ERRORS, InvalidRequestError),
)
async def log_out_everywhere(
    owner: OwnerBearer,
    users: UsersDep,
    api_keys: ApiKeysDep,
    context: ContextDep,
    logout: Annotated[EverywhereLogout, Body(default_factory=EverywhereLogout)],
) -> TokensRevoked:
    """Revokes all of your tokens and sessions, including the token of this request. Your API keys
    stay valid, unless you send `api_keys`."""
    user_id, token_version = owner.user_version
    revoke = api_keys.log_out_everywhere if logout.api_keys else users.revoke_tokens
    await revoke(context, user_id, token_version)
    return TokensRevoked(user_id=user_id)


async def _profile(context: RequestContext, user: User) -> Profile:
    names = await find_group_names(context, [user.id])
    return Profile.model_validate(user).model_copy(update={"groups": names[user.id]})
