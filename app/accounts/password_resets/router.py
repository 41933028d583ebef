from typing import Annotated

from fastapi import APIRouter, Body, status

from app.accounts.password_resets.dependencies import PasswordResetsDep
from app.accounts.password_resets.errors import PasswordResetNotFoundError
from app.accounts.password_resets.schemas import (
    AdminPasswordReset,
    AdminPasswordResetDone,
    ForgottenPassword,
    OpenPasswordReset,
    PasswordReset,
    PasswordResetDone,
    ResetRequested,
)
from app.errors import InvalidRequestError
from app.http.dependencies import ContextDep
from app.http.error_responses import error_docs
from app.mail.errors import MailUnavailableError, NotMailedError
from app.mail.schemas import MailAgain
from app.security.one_time_codes.errors import InvalidCodeError
from app.security.rate_limits.errors import TooManyAttemptsError
from app.users.dependencies import ADMIN_CHANGE_ERRORS, ADMIN_ERRORS, CurrentAdmin, UserId
from app.users.errors import LastAdminError, ServiceAccountError, UserNotFoundError

router = APIRouter()


@router.post(
    "/password-resets",
    operation_id="requestPasswordReset",
    summary="Request a password reset",
    response_description="A code is mailed if an account has this address.",
    tags=["Registration and login"],
    status_code=status.HTTP_202_ACCEPTED,
    responses=error_docs(MailUnavailableError, InvalidRequestError, TooManyAttemptsError),
)
async def request_password_reset(
    forgotten: ForgottenPassword, resets: PasswordResetsDep, context: ContextDep
) -> ResetRequested:
    """Mail a code to the address if an enabled account has it. The response does not reveal whether
    one does."""
    await resets.request(context, forgotten.email)
    return ResetRequested()


@router.post(
    "/password-resets/confirm",
    operation_id="resetPassword",
    summary="Set a new password with the code",
    response_description="The password was changed, and all tokens and sessions were revoked.",
    tags=["Registration and login"],
    responses=error_docs(InvalidCodeError, InvalidRequestError),
)
async def reset_password(
    reset: PasswordReset, resets: PasswordResetsDep, context: ContextDep
) -> PasswordResetDone:
    """The code works once. It expires after 30 minutes, or after a day if an administrator created
    it.

    All tokens and sessions of the account are revoked. A second factor stays enabled.
    """
    code, password = reset.code.get_secret_value(), reset.new_password.get_secret_value()
    return PasswordResetDone(user_id=await resets.confirm(context, code, password))


@router.post(
    "/users/{user_id}/password-reset",
    operation_id="forcePasswordReset",
    summary="Force a user to change the password",
    response_description="The user must set a new password with the code.",
    tags=["Administration"],
    responses=error_docs(
        *ADMIN_CHANGE_ERRORS,
        InvalidRequestError,
        MailUnavailableError,
        UserNotFoundError,
        LastAdminError,
        ServiceAccountError,
    ),
)
async def force_password_reset(
    _: CurrentAdmin,
    user_id: UserId,
    resets: PasswordResetsDep,
    context: ContextDep,
    forced: Annotated[AdminPasswordReset, Body(default_factory=AdminPasswordReset)],
) -> AdminPasswordResetDone:
    """Invalidate the password and revoke all tokens, sessions and API keys of the user. The user
    sets a new password with the code at `POST /password-resets/confirm`.

    Also use it for a user who forgot the password if the service does not send mail.
    """
    code, text = await resets.force(
        context, user_id, by_mail=forced.by_mail, language=forced.language
    )
    return AdminPasswordResetDone.of(code, None if forced.by_mail else text)


@router.get(
    "/users/{user_id}/password-reset",
    operation_id="readForcedPasswordReset",
    summary="Get the forced password reset of a user",
    response_description="The forced password reset that is open.",
    tags=["Administration"],
    responses=error_docs(*ADMIN_ERRORS, InvalidRequestError, PasswordResetNotFoundError),
)
async def read_forced_password_reset(
    _: CurrentAdmin, user_id: UserId, resets: PasswordResetsDep, context: ContextDep
) -> OpenPasswordReset:
    """Without its code. It is open until the user sets a new password or the code expires."""
    return OpenPasswordReset.model_validate(await resets.get_forced(context, user_id))


@router.post(
    "/users/{user_id}/password-reset/resend",
    operation_id="resendForcedPasswordReset",
    summary="Mail the code of a forced password reset again",
    response_description="The code is queued to be mailed.",
    tags=["Administration"],
    responses=error_docs(
        *ADMIN_CHANGE_ERRORS,
        InvalidRequestError,
        PasswordResetNotFoundError,
        NotMailedError,
        MailUnavailableError,
    ),
)
async def resend_forced_password_reset(
    _: CurrentAdmin,
    user_id: UserId,
    resets: PasswordResetsDep,
    context: ContextDep,
    again: Annotated[MailAgain, Body(default_factory=MailAgain)],
) -> OpenPasswordReset:
    """For mail that was refused or got lost. The codes of earlier mails of the reset stay valid.
    Only one of them can be used."""
    return OpenPasswordReset.model_validate(await resets.resend(context, user_id, again.language))
