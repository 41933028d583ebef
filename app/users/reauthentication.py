"""Requires the password again before sensitive changes, so that a stolen token is not enough to
take over the account (ASVS 5.0, 6.2.3 and 7.5.1).
"""

from app.context import RequestContext
from app.database.engine import begin_write
from app.events import Events
from app.security.passwords import Passwords
from app.security.rate_limits.service import LoginLimiter
from app.users.errors import WrongPasswordError
from app.users.login_account import normalize_username
from app.users.models import User
from app.users.service import Users


class Reauthentication:
    def __init__(
        self, users: Users, passwords: Passwords, limiter: LoginLimiter, events: Events
    ) -> None:
        self._users = users
        self._passwords = passwords
        self._limiter = limiter
        self._events = events

    async def require(
        self, context: RequestContext, action: str, user_id: int, password: str
    ) -> User:
        """Returns the user if the password is right. A later revocation of the user's tokens also
        invalidates this check, so the operation that follows compares `token_version`.

        A wrong password counts as a failed login, and is logged as a failed `action`. Raises
        WrongPasswordError, TooManyAttemptsError, UserNotFoundError and HashingOverloadedError.
        """
        user = await self._users.get(context, user_id)
        name = normalize_username(user.username)
        async with self._limiter.attempt(context, name) as attempt:
            await context.session.commit()
            is_right = await self._passwords.verify(password, user.password_hash)
            await begin_write(context.session)
            if is_right:
                await attempt.succeed()
            else:
                await attempt.fail()
                # The limit on failures is per known address, and an attacker may have many.
                await attempt.count_login()
                reason = "wrong password"
                await self._events.publish(context, action, user_id, succeeded=False, reason=reason)
            await context.session.commit()
        if not is_right:
            raise WrongPasswordError
        return user
