"""Whoever shows the code sets the password: it was mailed to the account's address, or handed out
by an administrator who knows the owner. A second factor is still asked for at the next login."""

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy.ext.asyncio import AsyncSession

from app.database.engine import begin_write
from app.errors import InvalidRequestError
from app.events import Events
from app.mail.service import Mail, ask, post
from app.security.one_time_codes import service as codes
from app.security.one_time_codes.models import Code
from app.security.one_time_codes.service import Purpose
from app.security.rate_limits.service import RESET, Throttle, clear, network_to_limit
from app.users.schemas import fold
from app.users.service import Users


@dataclass(frozen=True, slots=True)
class PasswordResets:
    session: AsyncSession
    users: Users
    throttle: Throttle
    events: Events
    mail: Mail

    async def request(self, email: str) -> None:
        """Whether anybody has the address is looked up by the postman, when nobody waits for it.

        Raises MailUnavailableError, TooManyAttemptsError and UnavailableError.
        """
        self.mail.require_server()
        network = network_to_limit(self.mail.caller.address)
        await self.throttle.count(self.session, "reset", network, RESET)
        await begin_write(self.session)
        await ask(self.session, email, self.mail.caller)
        await self.session.commit()

    async def confirm(self, code: str, password: str, now: datetime) -> int:
        """The id of the user who has the password now. All tokens and sessions end; what failed
        logins cost is forgotten, since the owner is there, and what others failed at is not.

        Raises InvalidCodeError, InvalidRequestError and HashingOverloadedError; the code is used up
        by none of the latter two.
        """
        found = await codes.find(self.session, code, now, Purpose.RESET, Purpose.RENEW)
        assert found.user_id
        password_hash = await self.users.hash_password(
            found.user_id, password, field="new_password"
        )
        await begin_write(self.session)
        user = await self.users.move_on(found.user_id)
        used = await codes.use(self.session, code, now, Purpose.RESET, Purpose.RENEW)
        user.password_hash = password_hash
        if used.email is not None and used.email == user.email:
            user.email_verified_at = now
        self.mail.caller.user_id = user.id
        await clear(self.session, fold(user.username), self.mail.caller.address)
        await self.events.announce("user.reset_password", user.id, now)
        await self.session.commit()
        return user.id

    async def force(self, user_id: int, now: datetime, *, by_mail: bool) -> tuple[Code, str]:
        """Void the password, and all tokens and sessions; the code alone sets a new one.

        Raises UserNotFoundError, LastAdminError, MailUnavailableError, and InvalidRequestError for
        a user without an address.
        """
        if by_mail:
            self.mail.require_server()
        user = await self.users.void_password(user_id)
        if by_mail and user.email is None:
            raise InvalidRequestError.about("by_mail", "The user has no e-mail address")
        await self.events.announce("user.force_reset", user_id, now)
        email = user.email if by_mail else None
        code, text = await codes.issue(
            self.session, Purpose.RENEW, now, user_id=user_id, email=email
        )
        if email:
            await post(self.session, email, self.mail.caller, code=code)
        await self.session.commit()
        return code, text
