"""Adds outgoing mail to the outbox, in the transaction of the operation."""

from contextlib import suppress
from datetime import timedelta
from typing import Any

from sqlalchemy import func, select, update

from app.context import RequestContext
from app.database.engine import begin_write
from app.database.fast_queries import current_time
from app.errors import UnavailableError
from app.events import Event
from app.mail.errors import MailUnavailableError, NothingToVerifyError, NotMailedError
from app.mail.models import OutgoingMail
from app.security.one_time_codes import service as codes
from app.security.one_time_codes.models import Code
from app.security.one_time_codes.service import MailState
from app.security.rate_limits.errors import TooManyAttemptsError
from app.security.rate_limits.limits import VERIFICATION
from app.security.rate_limits.service import enforce_limit
from app.settings import Settings
from app.users.models import User
from app.users.service import Users

MAX_WAITING = 10_000
RETRY_PERIOD = timedelta(days=1)
VERIFICATION_ACTIONS = {"user.register", "user.change_email"}


class Mail:
    def __init__(self, users: Users, settings: Settings) -> None:
        self._users = users
        self._settings = settings

    def require_server(self) -> None:
        """Raises MailUnavailableError."""
        if self._settings.smtp_url is None:
            raise MailUnavailableError

    async def request_verification(self, context: RequestContext, user_id: int) -> None:
        """Send a code to the user's address.

        Raises MailUnavailableError, NothingToVerifyError, UserNotFoundError, UnavailableError and
        TooManyAttemptsError.
        """
        self.require_server()
        await begin_write(context.session)
        user = await self._users.lock(context, user_id)
        if user.email is None or user.email_verified:
            raise NothingToVerifyError
        await enqueue_request(context, user.email, user_id=user.id)
        await context.session.commit()


async def enqueue_request(
    context: RequestContext, email: str, *, user_id: int | None = None
) -> None:
    """Queue a request, which the worker turns into mail: to verify the address of the user or,
    without a user, to reset the passwords of all accounts with the address. This takes the same
    time whether or not there are any.

    Raises UnavailableError if too much mail is waiting, and TooManyAttemptsError if the user has
    requested too much.
    """
    if await is_outbox_full(context):
        raise UnavailableError
    if user_id is not None:
        await enforce_limit(context.session, "verification", str(user_id), VERIFICATION)
    await add(context, email, user_id=user_id)


async def enqueue(
    context: RequestContext, email: str, code: Code, language: str | None = None
) -> None:
    """Queue mail with this code, no matter how much mail is waiting. `language` is that of the
    reader, if it is not the language of the request."""
    await add(context, email, language, code_id=code.id)


async def enqueue_again(context: RequestContext, code: Code, language: str | None) -> None:
    """Send the mail of a locked code again: at once if it still waits. Otherwise with another text,
    because the service no longer knows the earlier one, which stays valid.

    Raises NotMailedError if the code was not mailed.
    """
    if code.email is None:
        raise NotMailedError
    now = await current_time(context.session)
    code.mail_state, code.mail_reply_code, code.mail_enhanced_code = MailState.QUEUED, None, None
    await codes.keep_text(context, code)  # flushes: the code before the mail, as everywhere
    again: dict[str, Any] = {"due_at": now, "created_at": now, "attempts": 0}
    if language:
        again["accept_language"] = language
    waiting = update(OutgoingMail).where(OutgoingMail.code_id == code.id).values(**again)
    found = await context.session.scalars(
        waiting.returning(OutgoingMail.id), execution_options={"synchronize_session": False}
    )
    if not found.all():
        await add(context, code.email, language, code_id=code.id)


async def send_verification(context: RequestContext, event: Event) -> None:
    """A subscriber. If a limit is exceeded, it sends nothing. The user can request a code later."""
    user = await context.session.get(User, event.subject_id)
    if user and user.email and not user.email_verified:
        with suppress(UnavailableError, TooManyAttemptsError):
            await enqueue_request(context, user.email, user_id=user.id)


async def is_outbox_full(context: RequestContext) -> bool:
    """Whether too much mail is waiting to add mail that users request."""
    waiting = select(OutgoingMail.id).limit(MAX_WAITING).subquery()
    number = await context.session.scalar(select(func.count()).select_from(waiting))
    return (number or 0) >= MAX_WAITING


async def add(
    context: RequestContext, email: str, language: str | None = None, **columns: int | str | None
) -> None:
    """Add a row to the outbox, no matter how much mail is waiting."""
    now = await current_time(context.session)  # other hosts compare it
    context.session.add(
        OutgoingMail(
            email=email,
            accept_language=language or context.accept_language,
            ip_address=context.ip_address,
            user_agent=context.user_agent,
            request_id=context.request_id,
            attempts=0,
            due_at=now,
            created_at=now,
            **columns,
        )
    )
    await context.session.flush()
