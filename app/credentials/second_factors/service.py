"""The verbs of second factors.

Of a million codes three are right at a time (codes.py). Wrong codes are forgiven one an
hour and BURST may be open at once, whoever else logs in meanwhile: at most 29 guesses in a day,
which hit with a chance below 10^-4. After MAX_FAILURES in a row only a recovery code helps
(SP 800-63B-4, 3.2.2). Recovery codes cannot be guessed (codes/text.py), and knowing
the password alone does not suffice to lock the owner out of them.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum

from pydantic import SecretStr
from sqlalchemy import bindparam, delete, exists, func, select, update

from app.credentials.second_factors import codes
from app.credentials.second_factors.encryption import vault_of
from app.credentials.second_factors.errors import (
    SecondFactorExistsError,
    SecondFactorNotFoundError,
    SecondFactorRequiredError,
    TooManyCodesError,
    WrongCodeError,
)
from app.credentials.second_factors.models import RecoveryCode, SecondFactor
from app.database import fast_queries
from app.database.engine import begin_write
from app.security.one_time_codes import text
from app.security.rate_limits.rates import NEW_SECRET
from app.security.rate_limits.service import allow
from app.settings import Settings
from app.users.errors import UserNotFoundError
from app.users.models import User
from app.users.reauthentication import Proof
from app.users.service import refuse_if_ended

BURST = 5
FORGIVEN_AFTER = timedelta(hours=1)
MAX_FAILURES = 100
RECOVERY_CODES = 10
ENROLMENT = timedelta(hours=1)


# Whether a user has one, as a column beside the user's.
IS_ENABLED = exists().where(SecondFactor.user_id == User.id, SecondFactor.confirmed_at.is_not(None))
_WITH_ONE = select(User.id).where(User.id == bindparam("user_id"), IS_ENABLED)


class Answer(Enum):
    """To a code, or to none. The values are for the trace."""

    UNNEEDED = "no second factor"
    MISSING = "no code"
    RIGHT = "right code"
    WRONG = "wrong code"
    BLOCKED = "too many wrong codes"


@dataclass(frozen=True, slots=True)
class NewSecret:
    secret: str
    uri: str


class SecondFactors:
    def __init__(self, proof: Proof, settings: Settings) -> None:
        self._proof = proof
        self._session = proof.session
        self._users = proof.users
        self._events = proof.events
        self._vault = vault_of(settings)
        self._issuer = settings.issuer

    async def is_enabled(self, user_id: int) -> bool:
        return bool(await fast_queries.run(self._session, _WITH_ONE, {"user_id": user_id}))

    async def recovery_codes_left(self, user_id: int) -> int:
        left = select(func.count()).where(RecoveryCode.user_id == user_id)
        return await self._session.scalar(left) or 0

    async def check(self, user_id: int, otp: SecretStr | None, now: datetime) -> Answer:
        """Whether this code completes the login of a user who has a second factor. Part of its
        caller's transaction."""
        if otp is None:
            return Answer.MISSING
        try:
            factor = await self._lock(user_id)
        except UserNotFoundError:  # removed a moment ago
            factor = None
        return await self._try(factor, otp, now) if factor else Answer.WRONG

    async def reauthenticate(
        self, action: str, user_id: int, password: str, otp: SecretStr | None, now: datetime
    ) -> User:
        """The user whose password this is and, if there is a second factor, whose code this is.

        As in a login, the code is looked at only after the password was right. The user is the one
        of Proof.demand(): whatever changes the second factor ends the epoch that it carries.

        Raises WrongPasswordError, SecondFactorRequiredError, WrongCodeError, TooManyCodesError,
        TooManyAttemptsError, UserNotFoundError, HashingOverloadedError, and InvalidTokenError as
        Users.lock() does.
        """
        user = await self._proof.demand(action, user_id, password, now)
        if not await self.is_enabled(user_id):
            return user
        factor = await self._lock_enabled(user)
        if otp is None:
            await self._events.announce("second_factor.demand", user_id, now)
            await self._session.commit()
            raise SecondFactorRequiredError
        await self._demand(action, factor, otp, now)
        await self._session.commit()
        return user

    async def enrol(self, user_id: int, password: str, now: datetime) -> NewSecret:
        """A secret for the user's authenticator app, of no effect until confirm().

        Raises WrongPasswordError, SecondFactorExistsError, TooManyAttemptsError and
        HashingOverloadedError.
        """
        user = await self._proof.demand("second_factor.enrol", user_id, password, now)
        secret = codes.new_secret()
        await begin_write(self._session)
        if factor := await self._lock(user_id, user.token_epoch):
            if factor.confirmed_at:
                raise SecondFactorExistsError
            await self._session.delete(factor)
            await self._session.flush()
        await allow(self._session, "new secret", str(user_id), NEW_SECRET)
        created_at = await fast_queries.current_time(self._session)
        self._session.add(
            SecondFactor(
                user_id=user_id,
                secret=self._vault.lock(secret),
                created_at=created_at,
                forgiven_at=created_at,
            )
        )
        await self._events.announce("second_factor.enrol", user_id, now)
        await self._session.commit()
        return NewSecret(secret, codes.uri(secret, user.username, self._issuer))

    async def confirm(self, user_id: int, epoch: int, otp: SecretStr, now: datetime) -> list[str]:
        """From now on a login needs a code. Returns the recovery codes. `epoch` is the token's.

        What was issued for the password alone ends: a thief's tokens and sessions would else
        outlive the measure against him. Raises SecondFactorNotFoundError, WrongCodeError,
        TooManyCodesError, and InvalidTokenError as Users.lock() does.
        """
        if len(otp.get_secret_value()) != codes.DIGITS:
            raise WrongCodeError  # there are no recovery codes yet
        await begin_write(self._session)
        factor = await self._lock(user_id, epoch)
        confirmed_at = await fast_queries.current_time(self._session)
        if factor is None or factor.confirmed_at or factor.created_at + ENROLMENT <= confirmed_at:
            raise SecondFactorNotFoundError
        await self._demand("second_factor.confirm", factor, otp, now)
        factor.confirmed_at = confirmed_at
        recovery_codes = await self._new_codes(user_id)
        await self._users.move_on(user_id)
        await self._events.announce("second_factor.confirm", user_id, now)
        await self._session.commit()
        return recovery_codes

    async def renew_recovery_codes(
        self, user_id: int, password: str, otp: SecretStr, now: datetime
    ) -> list[str]:
        """New ones; the old ones are void.

        Raises WrongPasswordError, SecondFactorNotFoundError, WrongCodeError, TooManyCodesError,
        TooManyAttemptsError and HashingOverloadedError.
        """
        action = "second_factor.renew_codes"
        user = await self._proof.demand(action, user_id, password, now)
        await self._demand(action, await self._lock_enabled(user), otp, now)
        recovery_codes = await self._new_codes(user_id)
        await self._events.announce(action, user_id, now)
        await self._session.commit()
        return recovery_codes

    async def remove(self, user_id: int, password: str, otp: SecretStr, now: datetime) -> None:
        """The password suffices from now on. Tokens and sessions end.

        Raises WrongPasswordError, SecondFactorNotFoundError, WrongCodeError, TooManyCodesError,
        TooManyAttemptsError and HashingOverloadedError.
        """
        action = "second_factor.remove"
        user = await self._proof.demand(action, user_id, password, now)
        await self._demand(action, await self._lock_enabled(user), otp, now)
        await self._take_away(action, user_id, now)

    async def reset(self, user_id: int, now: datetime) -> None:
        """For whoever lost phone and recovery codes: an administrator vouches for the user.

        Raises UserNotFoundError and SecondFactorNotFoundError.
        """
        await begin_write(self._session)
        if await self._lock(user_id) is None:
            raise SecondFactorNotFoundError
        await self._take_away("second_factor.reset", user_id, now)

    async def _demand(
        self, action: str, factor: SecondFactor, otp: SecretStr, now: datetime
    ) -> None:
        answer = await self._try(factor, otp, now)
        if answer is Answer.BLOCKED:
            raise TooManyCodesError  # without a trace, of which there would be no end
        if answer is not Answer.RIGHT:
            reason = answer.value
            user_id = factor.user_id
            await self._events.announce(action, user_id, now, succeeded=False, reason=reason)
            await self._session.commit()
            raise WrongCodeError

    async def _lock_enabled(self, user: User) -> SecondFactor:
        await begin_write(self._session)
        factor = await self._lock(user.id, user.token_epoch)
        if factor is None or factor.confirmed_at is None:
            raise SecondFactorNotFoundError
        return factor

    async def _lock(self, user_id: int, epoch: int | None = None) -> SecondFactor | None:
        """The user's, which is nobody else's to change until the transaction ends: whoever wants to
        locks the user first. So that no two wait for each other, users come before all else.

        Raises UserNotFoundError, and InvalidTokenError as Users.lock() does.
        """
        user = select(User.token_epoch).where(User.id == user_id).with_for_update(key_share=True)
        current = await self._session.scalar(user)
        if current is None:
            raise UserNotFoundError
        refuse_if_ended(current, epoch)
        return await self._session.scalar(
            select(SecondFactor)
            .where(SecondFactor.user_id == user_id)
            .execution_options(populate_existing=True)
        )

    async def _try(self, factor: SecondFactor, otp: SecretStr, now: datetime) -> Answer:
        """RIGHT once for each code, however many try it at the same time."""
        code = otp.get_secret_value()
        if len(code) != codes.DIGITS:
            return await self._try_recovery_code(factor, code, now)
        tried_at = await fast_queries.current_time(
            self._session
        )  # the codes are by this host's clock
        if (
            factor.failures >= MAX_FAILURES
            or factor.forgiven_at > tried_at + (BURST - 1) * FORGIVEN_AFTER
        ):
            return Answer.BLOCKED
        step = codes.matching_step(self._vault.unlock(factor.secret), code, now)
        is_its = SecondFactor.user_id == factor.user_id
        spent = update(SecondFactor).where(is_its, SecondFactor.last_step < step)
        spent = spent.values(last_step=step, failures=0)
        if await self._session.scalar(spent.returning(SecondFactor.user_id)):
            return Answer.RIGHT
        factor.failures += 1
        factor.forgiven_at = max(factor.forgiven_at, tried_at) + FORGIVEN_AFTER
        return Answer.WRONG

    async def _try_recovery_code(self, factor: SecondFactor, code: str, now: datetime) -> Answer:
        spent = delete(RecoveryCode).where(
            RecoveryCode.user_id == factor.user_id, RecoveryCode.code_hash == text.digest(code)
        )
        if await self._session.scalar(spent.returning(RecoveryCode.user_id)) is None:
            return Answer.WRONG
        factor.failures = 0
        left = str(await self.recovery_codes_left(factor.user_id))
        await self._events.announce("second_factor.recover", factor.user_id, now, left=left)
        return Answer.RIGHT

    async def _new_codes(self, user_id: int) -> list[str]:
        await self._session.execute(delete(RecoveryCode).where(RecoveryCode.user_id == user_id))
        new = [text.new() for _ in range(RECOVERY_CODES)]
        self._session.add_all(
            RecoveryCode(user_id=user_id, code_hash=text.digest(code)) for code in new
        )
        return [text.shown(code) for code in new]

    async def _take_away(self, action: str, user_id: int, now: datetime) -> None:
        await self._session.execute(delete(SecondFactor).where(SecondFactor.user_id == user_id))
        await self._users.move_on(user_id)
        await self._events.announce(action, user_id, now)
        await self._session.commit()
