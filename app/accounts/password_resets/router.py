from typing import Annotated

from fastapi import APIRouter, Body, status

from app.accounts.password_resets.dependencies import PasswordResetsDep
from app.accounts.password_resets.schemas import (
    AdminPasswordReset,
    AdminPasswordResetDone,
    ForgottenPassword,
    PasswordReset,
    PasswordResetDone,
    ResetRequested,
)
from app.context import ContextDep
from app.http.error_responses import error_docs
from app.mail.errors import MailUnavailableError
from app.security.one_time_codes.errors import InvalidCodeError
from app.security.passwords import HashingOverloadedError
from app.security.rate_limits.errors import TooManyAttemptsError
from app.tokens.errors import InsufficientScopeError, InvalidTokenError, MissingTokenError
from app.users.dependencies import CurrentAdmin, UserId
from app.users.errors import LastAdminError, UserNotFoundError

router = APIRouter()


@router.post(
    "/password-resets",
    operation_id="requestPasswordReset",
    summary="I forgot my password",
    tags=["Users"],
    status_code=status.HTTP_202_ACCEPTED,
    responses=error_docs(MailUnavailableError, TooManyAttemptsError),
)
async def request_password_reset(
    context: ContextDep, forgotten: ForgottenPassword, resets: PasswordResetsDep
) -> ResetRequested:
    """Mails a code to the address if enabled accounts have it. The answer never tells."""
    await resets.request(context, forgotten.email)
    return ResetRequested()


@router.post(
    "/password-resets/confirm",
    operation_id="resetPassword",
    summary="Set a new password with a code",
    tags=["Users"],
    responses=error_docs(InvalidCodeError, HashingOverloadedError),
)
async def reset_password(
    reset: PasswordReset, resets: PasswordResetsDep, context: ContextDep
) -> PasswordResetDone:
    """The code is of use once, for 30 minutes, or a day if an administrator had it made.

    All tokens and sessions of the account end. A second factor stays, and is asked for at login.
    """
    code, password = reset.code.get_secret_value(), reset.new_password.get_secret_value()
    return PasswordResetDone(user_id=await resets.confirm(context, code, password))


@router.post(
    "/users/{user_id}/password-reset",
    operation_id="forcePasswordReset",
    summary="Force a user to change the password",
    tags=["Administration"],
    responses=error_docs(
        MissingTokenError,
        InvalidTokenError,
        InsufficientScopeError,
        MailUnavailableError,
        UserNotFoundError,
        LastAdminError,
    ),
)
async def force_password_reset(
    _: CurrentAdmin,
    user_id: UserId,
    resets: PasswordResetsDep,
    context: ContextDep,
    forced: Annotated[AdminPasswordReset, Body(default_factory=AdminPasswordReset)],
) -> AdminPasswordResetDone:
    """The password, all tokens and all sessions end at once; the code sets a new password.

    Also for a user who forgot it where the service sends no mail.
    """
    code, text = await resets.force(context, user_id, by_mail=forced.by_mail)
    return AdminPasswordResetDone(
        user_id=user_id, code=None if forced.by_mail else text, expires_at=code.expires_at
    )
