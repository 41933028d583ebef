"""Writing down what is to be sent, as part of the transaction that wants it sent."""

from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession

from app.context import Caller
from app.database.engine import begin_write
from app.database.fast_queries import current_time
from app.errors import UnavailableError
from app.events import Event
from app.http.access_log import request_id
from app.mail.errors import MailUnavailableError, NothingToVerifyError
from app.mail.models import Letter
from app.security.one_time_codes.models import Code
from app.security.rate_limits.errors import TooManyAttemptsError
from app.security.rate_limits.service import VERIFICATION, allow
from app.settings import Settings
from app.users.models import User
from app.users.service import Users

MAX_WAITING = 10_000
KEPT_TRYING = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Mail:
    """What a route may have sent."""

    session: AsyncSession
    users: Users
    caller: Caller
    settings: Settings

    def require_server(self) -> None:
        """Raises MailUnavailableError."""
        if self.settings.smtp_url is None:
            raise MailUnavailableError

    async def verify(self, user_id: int) -> None:
        """Send a code to the user's address.

        Raises MailUnavailableError, NothingToVerifyError, UserNotFoundError, UnavailableError and
        TooManyAttemptsError.
        """
        self.require_server()
        await begin_write(self.session)
        user = await self.users.lock(user_id)
        if user.email is None or user.email_verified:
            raise NothingToVerifyError
        await ask(self.session, user.email, self.caller, user_id=user.id)
        await self.session.commit()


async def ask(
    session: AsyncSession, email: str, caller: Caller, *, user_id: int | None = None
) -> None:
    """To have the user's address verified or, for no user, a way back in for whoever has an account
    of that address. The same work whether there is one or not.

    Raises UnavailableError when too much waits already, and TooManyAttemptsError when the user has
    asked for too many.
    """
    waiting = select(Letter.id).limit(MAX_WAITING).subquery()
    if (await session.scalar(select(func.count()).select_from(waiting)) or 0) >= MAX_WAITING:
        raise UnavailableError
    if user_id is not None:
        await allow(session, "verification", str(user_id), VERIFICATION)
    await _add(session, email, caller, user_id=user_id)


async def post(session: AsyncSession, email: str, caller: Caller, *, code: Code) -> None:
    """A code to the mailbox, however much waits."""
    await _add(session, email, caller, code_id=code.id)


async def ask_to_verify(session: AsyncSession, event: Event) -> None:
    """A listener. When it is too much, nothing is sent: one can still ask for it."""
    if event.action not in ("user.register", "user.change_email"):
        return
    user = await session.get(User, event.subject_id)
    if user and user.email and not user.email_verified:
        with suppress(UnavailableError, TooManyAttemptsError):
            await ask(session, user.email, event.caller, user_id=user.id)


async def _add(session: AsyncSession, email: str, caller: Caller, **what: int | None) -> None:
    now = await current_time(session)  # other hosts' workers compare when it is due
    session.add(
        Letter(
            email=email,
            languages=caller.languages,
            address=caller.address,
            user_agent=caller.user_agent,
            request_id=request_id.get(),
            attempts=0,
            due_at=now,
            created_at=now,
            **what,
        )
    )
    await session.flush()
