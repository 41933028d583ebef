"""Proving again, with the password, that an account is one's own: a token that was left lying
about, or stolen, must not give the account away (ASVS 5.0, 6.2.3 and 7.5.1)."""

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy.ext.asyncio import AsyncSession

from app.context import Caller
from app.database.engine import begin_write
from app.events import Events
from app.security.passwords import Passwords
from app.security.rate_limits.service import Throttle
from app.users.errors import WrongPasswordError
from app.users.models import User
from app.users.schemas import fold
from app.users.service import Users


@dataclass(frozen=True, slots=True)
class Proof:
    session: AsyncSession
    users: Users
    passwords: Passwords
    throttle: Throttle
    events: Events
    caller: Caller

    async def demand(self, action: str, user_id: int, password: str, now: datetime) -> User:
        """The user whose password this is, in the epoch for which this is proved: whatever ends
        tokens ends it too, so the deed compares. A wrong password counts as a failed login, and is
        written down as a failed `action`.

        Raises WrongPasswordError, TooManyAttemptsError, UserNotFoundError and
        HashingOverloadedError.
        """
        user = await self.users.get(user_id)
        name, address = fold(user.username), self.caller.address
        async with self.throttle.attempt(self.session, name, address) as attempt:
            await self.session.commit()
            matches = await self.passwords.matches(password, user.password_hash)
            await begin_write(self.session)
            if matches:
                await attempt.succeed()
            else:
                await attempt.fail()
                await attempt.count()  # with many known addresses failures alone bound too little
                reason = "wrong password"
                await self.events.announce(action, user_id, now, succeeded=False, reason=reason)
            await self.session.commit()
        if not matches:
            raise WrongPasswordError
        return user
