"""The verbs of users about themselves. Each asks for the password, so that a token that was left
lying about, or stolen, does not give the account away (ASVS 5.0, 6.2.3 and 7.5.1)."""

from datetime import datetime

from pydantic import SecretStr
from sqlalchemy.ext.asyncio import AsyncSession

from app.caller import Caller
from app.database import begin_write
from app.events import Events
from app.own_account.errors import WrongPasswordError
from app.passwords import Passwords
from app.throttle.service import Throttle
from app.users.models import User
from app.users.schemas import fold
from app.users.service import Users


class OwnAccount:
    """Each verb raises WrongPasswordError, TooManyAttemptsError and HashingOverloadedError."""

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

    async def change_password(
        self, user_id: int, password: SecretStr, new_password: SecretStr, now: datetime
    ) -> None:
        """Ends all tokens and sessions. Raises InvalidRequestError if the new one is refused."""
        await self._prove(user_id, password, now)
        await self._users.change_password(
            user_id, new_password.get_secret_value(), now, field="new_password"
        )

    async def change_email(
        self, user_id: int, password: SecretStr, email: str | None, now: datetime
    ) -> User:
        await self._prove(user_id, password, now)
        return await self._users.change(user_id, now, email=email)

    async def remove(self, user_id: int, password: SecretStr, now: datetime) -> None:
        """Raises LastAdminError."""
        await self._prove(user_id, password, now)
        await self._users.remove(user_id, now)

    async def _prove(self, user_id: int, password: SecretStr, now: datetime) -> None:
        """A wrong password counts as a failed login, and is slowed down as one."""
        user = await self._users.get(user_id)
        name, address = fold(user.username), self._caller.address
        async with self._throttle.attempt(self._session, name, address, now) as attempt:
            await self._session.commit()
            matches = await self._passwords.matches(password.get_secret_value(), user.password_hash)
            await begin_write(self._session)
            if matches:
                await attempt.succeed()
            else:
                await attempt.fail()
                await self._events.announce("user.prove", user_id, now, succeeded=False)
            await self._session.commit()
        if not matches:
            raise WrongPasswordError
