from fastapi import APIRouter, status

from app.credentials.second_factors.code_checks import count_recovery_codes
from app.credentials.second_factors.dependencies import SecondFactorsDep
from app.credentials.second_factors.errors import (
    SecondFactorExistsError,
    SecondFactorNotFoundError,
    TooManyCodesError,
    WrongCodeError,
)
from app.credentials.second_factors.schemas import (
    Enrollment,
    OtpConfirmation,
    PasswordAndOtp,
    PasswordConfirmation,
    RecoveryCodeSet,
    SecondFactorRemoved,
    SecondFactorState,
)
from app.errors import InvalidRequestError
from app.http.dependencies import ContextDep
from app.http.error_responses import error_docs
from app.security.rate_limits.errors import TooManyAttemptsError
from app.users.dependencies import (
    ADMIN_CHANGE_ERRORS,
    OWNER_ERRORS,
    AccountOwner,
    CurrentAdmin,
    OwnerBearer,
    UserId,
)
from app.users.errors import UserNotFoundError, WrongPasswordError

router = APIRouter()

_BY_CODE = (
    *OWNER_ERRORS,
    WrongCodeError,
    SecondFactorNotFoundError,
    TooManyCodesError,
    InvalidRequestError,
)
_BY_BOTH = (*_BY_CODE, WrongPasswordError, TooManyAttemptsError)


@router.get(
    "/me/second-factor",
    operation_id="readSecondFactor",
    summary="Get the state of my second factor",
    response_description="The state of your second factor.",
    tags=["My second factor"],
    responses=error_docs(*OWNER_ERRORS),
)
async def read_second_factor(
    user: AccountOwner, factors: SecondFactorsDep, context: ContextDep
) -> SecondFactorState:
    """Whether it is enabled, and how many recovery codes are left."""
    return SecondFactorState(
        enabled=await factors.is_enabled(context, user.id),
        recovery_codes_left=await count_recovery_codes(context, user.id),
    )


@router.post(
    "/me/second-factor",
    operation_id="enrolSecondFactor",
    summary="Set up a second factor",
    response_description="A new secret. Logins need it after you confirm it.",
    tags=["My second factor"],
    status_code=status.HTTP_201_CREATED,
    responses=error_docs(
        *OWNER_ERRORS,
        WrongPasswordError,
        SecondFactorExistsError,
        TooManyAttemptsError,
        InvalidRequestError,
    ),
)
async def enroll_second_factor(
    proof: PasswordConfirmation, user: AccountOwner, factors: SecondFactorsDep, context: ContextDep
) -> Enrollment:
    """Returns a secret for an authenticator app (TOTP, RFC 6238). Confirm it within an hour with
    `POST /me/second-factor/confirm`; logins need no code before that.

    A repeated call replaces the unconfirmed secret.
    """
    made = await factors.enroll(context, user.id, proof.password.get_secret_value())
    return Enrollment(secret=made.secret, otpauth_uri=made.uri)


@router.post(
    "/me/second-factor/confirm",
    operation_id="confirmSecondFactor",
    summary="Enable the second factor",
    response_description="Logins need a code from now on. These are your recovery codes.",
    tags=["My second factor"],
    responses=error_docs(*_BY_CODE),
)
async def confirm_second_factor(
    proof: OtpConfirmation, owner: OwnerBearer, factors: SecondFactorsDep, context: ContextDep
) -> RecoveryCodeSet:
    """Send a code from the authenticator app. From then on, each login needs one. Save the recovery
    codes: they are not shown again.

    Revokes all of your tokens and sessions, including the token of this request. Log in with the
    app's next code, since each code works once.
    """
    user_id, token_version = owner.user_version
    return RecoveryCodeSet(
        recovery_codes=await factors.confirm(context, user_id, token_version, proof.otp)
    )


@router.post(
    "/me/second-factor/recovery-codes",
    operation_id="renewRecoveryCodes",
    summary="Get new recovery codes",
    response_description="Your new recovery codes. Earlier ones are invalid.",
    tags=["My second factor"],
    responses=error_docs(*_BY_BOTH),
)
async def renew_recovery_codes(
    proof: PasswordAndOtp, user: AccountOwner, factors: SecondFactorsDep, context: ContextDep
) -> RecoveryCodeSet:
    """The new codes replace all old ones. They are not shown again."""
    password = proof.password.get_secret_value()
    codes = await factors.renew_recovery_codes(context, user.id, password, proof.otp)
    return RecoveryCodeSet(recovery_codes=codes)


@router.delete(
    "/me/second-factor",
    operation_id="removeSecondFactor",
    summary="Disable my second factor",
    response_description="Logins no longer need a code.",
    tags=["My second factor"],
    responses=error_docs(*_BY_BOTH),
)
async def remove_second_factor(
    proof: PasswordAndOtp, user: AccountOwner, factors: SecondFactorsDep, context: ContextDep
) -> SecondFactorRemoved:
    """Revokes all of your tokens and sessions, including the token of this request."""
    await factors.remove(context, user.id, proof.password.get_secret_value(), proof.otp)
    return SecondFactorRemoved()


@router.delete(
    "/users/{user_id}/second-factor",
    operation_id="resetSecondFactorOfUser",
    summary="Remove a user's second factor",
    response_description="The second factor of the user was removed.",
    tags=["Administration"],
    responses=error_docs(
        *ADMIN_CHANGE_ERRORS,
        UserNotFoundError,
        SecondFactorNotFoundError,
        InvalidRequestError,
    ),
)
async def reset_second_factor_of_user(
    _: CurrentAdmin, user_id: UserId, factors: SecondFactorsDep, context: ContextDep
) -> SecondFactorRemoved:
    """For a user who lost the phone and the recovery codes. Revokes the user's tokens and
    sessions."""
    await factors.reset(context, user_id)
    return SecondFactorRemoved()
