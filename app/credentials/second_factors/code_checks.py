"""Checks codes, and limits guesses.

At any time, three of a million codes are right (codes.py). One wrong code is forgiven per hour, and
there may be up to BURST that are not forgiven yet. That allows 29 guesses a day, which succeed with
a probability below 10^-4. After MAX_FAILURES in a row, only a recovery code is accepted
(SP 800-63B-4, 3.2.2). Recovery codes cannot be guessed (one_time_codes/text.py), so there is no
limit for them, and an attacker who knows only the password cannot prevent the owner from using one.
"""

from datetime import timedelta
from enum import Enum

from pydantic import SecretStr
from sqlalchemy import delete, func, select, update

from app.context import RequestContext
from app.credentials.second_factors import codes
from app.credentials.second_factors.models import RecoveryCode, SecondFactor
from app.database import fast_queries
from app.events import Events
from app.security.encryption import Encryptor
from app.security.one_time_codes import text

BURST = 5
FORGIVEN_AFTER = timedelta(hours=1)
MAX_FAILURES = 100


class LoginResult(Enum):
    """The result of checking the password and, for users with a second factor, the code. The values
    are reasons for the audit log."""

    ACCEPTED = "accepted"
    REFUSED = "wrong username or password, or the user is disabled"
    CODE_REQUIRED = "no code"
    WRONG_CODE = "wrong code"
    TOO_MANY_CODES = "too many wrong codes"


class CodeChecker:
    def __init__(self, events: Events, encryptor: Encryptor) -> None:
        self._events = events
        self._encryptor = encryptor

    async def check(
        self, context: RequestContext, factor: SecondFactor, otp: SecretStr
    ) -> LoginResult:
        """Check a code for a locked second factor. Part of the caller's transaction.

        Accepts each code once, even if several requests use it at the same time.
        """
        code = otp.get_secret_value()
        if len(code) != codes.DIGITS:
            return await self._check_recovery_code(context, factor, code)
        # The limit uses the database's clock. The codes depend on the clock of this host.
        tried_at = await fast_queries.current_time(context.session)
        if (
            factor.failures >= MAX_FAILURES
            or factor.forgiven_at > tried_at + (BURST - 1) * FORGIVEN_AFTER
        ):
            return LoginResult.TOO_MANY_CODES
        step = codes.matching_step(self._encryptor.decrypt(factor.secret), code, context.now)
        is_unused = SecondFactor.last_step < step
        use = update(SecondFactor).where(SecondFactor.user_id == factor.user_id, is_unused)
        use = use.values(last_step=step, failures=0)
        if await context.session.scalar(use.returning(SecondFactor.user_id)):
            return LoginResult.ACCEPTED
        factor.failures += 1
        factor.forgiven_at = max(factor.forgiven_at, tried_at) + FORGIVEN_AFTER
        return LoginResult.WRONG_CODE

    async def _check_recovery_code(
        self, context: RequestContext, factor: SecondFactor, code: str
    ) -> LoginResult:
        use = delete(RecoveryCode).where(
            RecoveryCode.user_id == factor.user_id, RecoveryCode.code_hash == text.hash_code(code)
        )
        if await context.session.scalar(use.returning(RecoveryCode.user_id)) is None:
            return LoginResult.WRONG_CODE
        factor.failures = 0
        left = str(await count_recovery_codes(context, factor.user_id))
        await self._events.publish(context, "second_factor.recover", factor.user_id, left=left)
        return LoginResult.ACCEPTED


async def count_recovery_codes(context: RequestContext, user_id: int) -> int:
    """The number of recovery codes that the user has not used yet."""
    left = select(func.count()).where(RecoveryCode.user_id == user_id)
    return await context.session.scalar(left) or 0
