"""Writing down what is to be sent, as part of the transaction that wants it sent."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession

from app.caller import Caller
from app.codes import service as codes
from app.codes.models import Code
from app.codes.service import Purpose
from app.database import begin_write
from app.errors import UnavailableError
from app.events import Event
from app.mail.errors import MailUnavailableError, NothingToVerifyError
from app.mail.models import Letter
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

    async def verify(self, user_id: int, now: datetime) -> None:
        """Send a code to the user's address.

        Raises MailUnavailableError, NothingToVerifyError, UserNotFoundError and UnavailableError.
        """
        self.require_server()
        await begin_write(self.session)
        user = await self.users.lock(user_id)
        if user.email is None or user.email_verified:
            raise NothingToVerifyError
        await _post_verification(self.session, user.id, user.email, self.caller, now)
        await self.session.commit()


async def post(
    session: AsyncSession, email: str, caller: Caller, now: datetime, *, code: Code | None = None
) -> None:
    """A code to the mailbox; without one, a way back in for whoever has an account of that address.

    The same work whether there is one or not. Raises UnavailableError when too much waits already.
    """
    if not await _has_room(session):
        raise UnavailableError
    session.add(
        Letter(
            code_id=code.id if code else None,
            email=email,
            languages=caller.languages,
            address=caller.address,
            user_agent=caller.user_agent,
            attempts=0,
            due_at=now,
            created_at=now,
        )
    )
    await session.flush()


async def ask_to_verify(session: AsyncSession, event: Event) -> None:
    """A listener. When too much waits, nothing is sent: one can still ask for it."""
    if event.action in ("user.register", "user.change_email") and await _has_room(session):
        user = await session.get(User, event.subject_id)
        if user and user.email and not user.email_verified:
            await _post_verification(session, user.id, user.email, event.caller, event.at)


async def _post_verification(
    session: AsyncSession, user_id: int, email: str, caller: Caller, now: datetime
) -> None:
    code, _ = await codes.issue(session, Purpose.VERIFY, now, user_id=user_id, email=email)
    await post(session, email, caller, now, code=code)


async def _has_room(session: AsyncSession) -> bool:
    waiting = select(Letter.id).limit(MAX_WAITING).subquery()
    return (await session.scalar(select(func.count()).select_from(waiting)) or 0) < MAX_WAITING
