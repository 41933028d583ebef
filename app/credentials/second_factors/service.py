"""Operations on second factors. Each is a transaction of its own, unless it says otherwise."""

from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from pydantic import SecretStr
from sqlalchemy import bindparam, delete, exists, select

from app.context import RequestContext
from app.credentials.second_factors import codes
from app.credentials.second_factors.code_checks import CodeChecker, LoginResult
from app.credentials.second_factors.encryption import encryptor_for
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
from app.events import Events
from app.security.one_time_codes import text
from app.security.rate_limits.limits import NEW_SECRET
from app.security.rate_limits.service import enforce_limit
from app.settings import Settings
from app.tokens.jwt import Claims
from app.users.errors import UserNotFoundError
from app.users.models import User
from app.users.reauthentication import Reauthentication
from app.users.service import Users, require_token_version

RECOVERY_CODES = 10
ENROLLMENT_PERIOD = timedelta(hours=1)
RECENT = timedelta(minutes=15)

# A column for queries on users.
HAS_SECOND_FACTOR = exists().where(
    SecondFactor.user_id == User.id, SecondFactor.confirmed_at.is_not(None)
)
_SELECT_IF_ENABLED = select(User.id).where(User.id == bindparam("user_id"), HAS_SECOND_FACTOR)


class NewSecret(NamedTuple):
    secret: str
    uri: str


class SecondFactors:
    def __init__(
        self, users: Users, reauthentication: Reauthentication, events: Events, settings: Settings
    ) -> None:
        self._reauthentication = reauthentication
        self._users = users
        self._events = events
        self._encryptor = encryptor_for(settings)
        self._code_checker = CodeChecker(events, self._encryptor)
        self._service_name = settings.service_name or codes.service_label(settings.issuer)

    async def is_enabled(self, context: RequestContext, user_id: int) -> bool:
        return bool(
            await fast_queries.run(context.session, _SELECT_IF_ENABLED, {"user_id": user_id})
        )

    async def check(
        self, context: RequestContext, user_id: int, otp: SecretStr | None
    ) -> LoginResult:
        """Check the code of a user who has a second factor. Part of the caller's transaction."""
        if otp is None:
            return LoginResult.CODE_REQUIRED
        try:
            factor = await self._lock(context, user_id)
        except UserNotFoundError:  # deleted during the login
            factor = None
        if factor is None:
            return LoginResult.WRONG_CODE
        return await self._code_checker.check(context, factor, otp)

    async def reauthenticate(
        self,
        context: RequestContext,
        action: str,
        user_id: int,
        password: str,
        otp: SecretStr | None,
    ) -> User:
        """Returns the user if the password is right and, with a second factor, the code as well.

        As in a login, the code is checked only after the password. Changing the second factor
        changes the user's `token_version`, which the operation that follows compares.

        Raises WrongPasswordError, SecondFactorRequiredError, WrongCodeError, TooManyCodesError,
        TooManyAttemptsError, UserNotFoundError, HashingOverloadedError, and InvalidTokenError as
        Users.lock() does.
        """
        user = await self._reauthentication.require(context, action, user_id, password)
        if not await self.is_enabled(context, user_id):
            return user
        factor = await self._lock_enabled(context, user)
        if otp is None:
            await self._events.publish(context, "second_factor.required", user_id)
            await context.session.commit()
            raise SecondFactorRequiredError
        await self._require_code(context, action, factor, otp)
        await context.session.commit()
        return user

    async def require_recent(
        self, context: RequestContext, action: str, claims: Claims, otp: SecretStr | None
    ) -> None:
        """Require a code of a user with a second factor, unless the user's token comes from a login
        with one that is not longer ago than RECENT.

        As after reauthenticate(), the operation that follows compares `token_version`. Raises
        SecondFactorRequiredError, WrongCodeError, TooManyCodesError, and the errors of
        Users.lock().
        """
        user_id = int(claims.subject)
        authenticated_at = datetime.fromtimestamp(claims.authenticated_at, UTC)
        is_recent = "otp" in claims.methods and context.now - authenticated_at <= RECENT
        if is_recent or not await self.is_enabled(context, user_id):
            return
        if otp is None:
            raise SecondFactorRequiredError
        await begin_write(context.session)
        factor = await self._lock(context, user_id, claims.token_version)
        if factor is None:
            raise SecondFactorNotFoundError
        await self._require_code(context, action, factor, otp)
        await context.session.commit()

    async def enroll(self, context: RequestContext, user_id: int, password: str) -> NewSecret:
        """Returns a secret for the user's authenticator app. It has no effect before confirm().

        Raises WrongPasswordError, SecondFactorExistsError, TooManyAttemptsError and
        HashingOverloadedError.
        """
        user = await self._reauthentication.require(
            context, "second_factor.enrol", user_id, password
        )
        secret = codes.new_secret()
        await begin_write(context.session)
        if factor := await self._lock(context, user_id, user.token_version):
            if factor.confirmed_at:
                raise SecondFactorExistsError
            await context.session.delete(factor)
            await context.session.flush()
        await enforce_limit(context.session, "new secret", str(user_id), NEW_SECRET)
        created_at = await fast_queries.current_time(context.session)
        context.session.add(
            SecondFactor(
                user_id=user_id,
                secret=self._encryptor.encrypt(secret),
                created_at=created_at,
                forgiven_at=created_at,
            )
        )
        await self._events.publish(context, "second_factor.enrol", user_id)
        await context.session.commit()
        return NewSecret(secret, codes.uri(secret, user.username, self._service_name))

    async def confirm(
        self, context: RequestContext, user_id: int, token_version: int, otp: SecretStr
    ) -> list[str]:
        """Enable the second factor. Returns the recovery codes. `token_version` is the token's.

        Revokes all tokens and sessions, which were issued for the password alone and may be a
        thief's. Raises SecondFactorNotFoundError, WrongCodeError, TooManyCodesError, and
        InvalidTokenError as Users.lock() does.
        """
        if len(otp.get_secret_value()) != codes.DIGITS:
            raise WrongCodeError  # there are no recovery codes yet
        await begin_write(context.session)
        factor = await self._lock(context, user_id, token_version)
        confirmed_at = await fast_queries.current_time(context.session)
        if (
            factor is None
            or factor.confirmed_at
            or factor.created_at + ENROLLMENT_PERIOD <= confirmed_at
        ):
            raise SecondFactorNotFoundError
        await self._require_code(context, "second_factor.confirm", factor, otp)
        factor.confirmed_at = confirmed_at
        recovery_codes = await self._replace_recovery_codes(context, user_id)
        await self._users.bump_token_version(context, user_id)
        await self._events.publish(context, "second_factor.confirm", user_id)
        await context.session.commit()
        return recovery_codes

    async def renew_recovery_codes(
        self, context: RequestContext, user_id: int, password: str, otp: SecretStr
    ) -> list[str]:
        """Replace all recovery codes.

        Raises WrongPasswordError, SecondFactorNotFoundError, WrongCodeError, TooManyCodesError,
        TooManyAttemptsError and HashingOverloadedError.
        """
        action = "second_factor.renew_codes"
        user = await self._reauthentication.require(context, action, user_id, password)
        await self._require_code(context, action, await self._lock_enabled(context, user), otp)
        recovery_codes = await self._replace_recovery_codes(context, user_id)
        await self._events.publish(context, action, user_id)
        await context.session.commit()
        return recovery_codes

    async def remove(
        self, context: RequestContext, user_id: int, password: str, otp: SecretStr
    ) -> None:
        """Remove the second factor. Revokes the user's tokens and sessions.

        Raises WrongPasswordError, SecondFactorNotFoundError, WrongCodeError, TooManyCodesError,
        TooManyAttemptsError and HashingOverloadedError.
        """
        action = "second_factor.remove"
        user = await self._reauthentication.require(context, action, user_id, password)
        await self._require_code(context, action, await self._lock_enabled(context, user), otp)
        await self._delete(context, action, user_id)

    async def reset(self, context: RequestContext, user_id: int) -> None:
        """Remove a second factor without a code, if the user has lost the phone and recovery codes.

        Raises UserNotFoundError and SecondFactorNotFoundError.
        """
        await begin_write(context.session)
        if await self._lock(context, user_id) is None:
            raise SecondFactorNotFoundError
        await self._delete(context, "second_factor.reset", user_id)

    async def _require_code(
        self, context: RequestContext, action: str, factor: SecondFactor, otp: SecretStr
    ) -> None:
        result = await self._code_checker.check(context, factor, otp)
        if result is LoginResult.TOO_MANY_CODES:
            raise TooManyCodesError  # not logged, since these requests have no limit
        if result is not LoginResult.ACCEPTED:
            reason = result.value
            user_id = factor.user_id
            await self._events.publish(context, action, user_id, succeeded=False, reason=reason)
            await context.session.commit()
            raise WrongCodeError

    async def _lock_enabled(self, context: RequestContext, user: User) -> SecondFactor:
        await begin_write(context.session)
        factor = await self._lock(context, user.id, user.token_version)
        if factor is None or factor.confirmed_at is None:
            raise SecondFactorNotFoundError
        return factor

    async def _lock(
        self, context: RequestContext, user_id: int, token_version: int | None = None
    ) -> SecondFactor | None:
        """Returns the user's second factor, locked until the end of the transaction.

        Every change of it locks the user first, before any other row, so that there is no deadlock.

        Raises UserNotFoundError, and InvalidTokenError as Users.lock() does.
        """
        user = select(User.token_version).where(User.id == user_id).with_for_update(key_share=True)
        current = await context.session.scalar(user)
        if current is None:
            raise UserNotFoundError
        require_token_version(current, token_version)
        return await context.session.scalar(
            select(SecondFactor)
            .where(SecondFactor.user_id == user_id)
            .execution_options(populate_existing=True)
        )

    async def _replace_recovery_codes(self, context: RequestContext, user_id: int) -> list[str]:
        await context.session.execute(delete(RecoveryCode).where(RecoveryCode.user_id == user_id))
        new = [text.generate_code() for _ in range(RECOVERY_CODES)]
        context.session.add_all(
            RecoveryCode(user_id=user_id, code_hash=text.hash_code(code)) for code in new
        )
        return [text.format_code(code) for code in new]

    async def _delete(self, context: RequestContext, action: str, user_id: int) -> None:
        await context.session.execute(delete(SecondFactor).where(SecondFactor.user_id == user_id))
        await self._users.bump_token_version(context, user_id)
        await self._events.publish(context, action, user_id)
        await context.session.commit()
