"""Proving again, with the password, that an account is one's own: a token that was left lying
about, or stolen, must not give the account away (ASVS 5.0, 6.2.3 and 7.5.1)."""

from datetime import datetime

from sqlalchemy.ext.asyncio import AsyncSession

from app.caller import Caller
from app.database import begin_write
from app.events import Events
from app.passwords import Passwords
from app.throttle.service import Throttle
from app.users.errors import WrongPasswordError
from app.users.models import User
from app.users.schemas import fold
from app.users.service import Users


class Proof:
    def __init__(  # noqa: PLR0913, PLR0917 - it is where these meet
        self,
        session: AsyncSession,
        users: Users,
        passwords: Passwords,
        throttle: Throttle,
        events: Events,
        caller: Caller,
    ) -> None:
        self._session = session
        self._users = users
        self._passwords = passwords
        self._throttle = throttle
        self._events = events
        self._caller = caller

    async def demand(self, action: str, user_id: int, password: str, now: datetime) -> User:
        """The user whose password this is. A wrong one counts as a failed login, and is written
        down as a failed `action`.

        Raises WrongPasswordError, TooManyAttemptsError, UserNotFoundError and
        HashingOverloadedError.
        """
        user = await self._users.get(user_id)
        name, address = fold(user.username), self._caller.address
        async with self._throttle.attempt(self._session, name, address, now) as attempt:
            await self._session.commit()
            matches = await self._passwords.matches(password, user.password_hash)
            await begin_write(self._session)
            if matches:
                await attempt.succeed()
            else:
                await attempt.fail()
                reason = "wrong password"
                await self._events.announce(action, user_id, now, succeeded=False, reason=reason)
            await self._session.commit()
        if not matches:
            raise WrongPasswordError
        return user
