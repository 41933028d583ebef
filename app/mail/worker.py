"""Sends the mail that waits in the outbox. Every worker does: each mail is claimed for a while
first, so if its worker dies, another one sends it.

A row without a code is a request. Only here are the accounts of its address looked up, so that a
password reset takes the same time for every address. Only requests count towards the limit of a
mailbox, so that strangers cannot keep an administrator's mail away. A request is replaced, in one
transaction, by one mail with a code for each account. Codes exist in clear text only between here
and the mail server.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from email.message import EmailMessage

import aiosmtplib
from email_validator import EmailNotValidError
from sqlalchemy import and_, delete, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from app.background_jobs import wait_or_stop
from app.context import RequestContext
from app.database.engine import Database, begin_write
from app.database.fast_queries import current_time
from app.events import Events
from app.mail.messages import compose
from app.mail.models import OutgoingMail
from app.mail.service import enqueue
from app.mail.smtp import MailRefusedError, send
from app.security.one_time_codes import service as codes
from app.security.one_time_codes.errors import InvalidCodeError
from app.security.one_time_codes.service import Purpose
from app.security.rate_limits.errors import TooManyAttemptsError
from app.security.rate_limits.limits import MAILBOX
from app.security.rate_limits.service import allow
from app.settings import Settings
from app.users.models import User, normalize_email

ROUND_SECONDS = 2
BATCH = 20
CLAIM = timedelta(minutes=5)  # and how long a mail waits, then twice as long, if it is not taken
MAX_ACCOUNTS = 5  # of one address, that get a code when it asks for new passwords

_TEMPLATES = {
    Purpose.RESET: "reset",
    Purpose.ADMIN_RESET: "forced_password_reset",
    Purpose.VERIFY: "verify",
    Purpose.INVITE: "invite",
}

_log = logging.getLogger("hourpass.mail")


class MailWorker:
    def __init__(
        self,
        database: Database,
        settings: Settings,
        events: Events,
        clock: Callable[[], datetime],
    ) -> None:
        self._database = database
        self._settings = settings
        self._events = events
        self._clock = clock

    async def run(self, stopping: asyncio.Event) -> None:
        """A failed run is logged; its mail is sent later."""
        while not stopping.is_set():
            try:
                while await self.run_once(stopping):
                    pass
            except Exception:  # noqa: BLE001 - one bad round must not be the last
                _log.exception("Delivering mail failed")
            await wait_or_stop(stopping, ROUND_SECONDS)

    async def run_once(self, stopping: asyncio.Event) -> int:
        """Returns how many mails this worker claimed."""
        claimed = 0
        async with self._database.session() as session:
            now = await current_time(session)
            due = (
                select(OutgoingMail.id)
                .where(OutgoingMail.due_at <= now)
                .order_by(OutgoingMail.due_at)
            )
            for mail_id in (await session.scalars(due.limit(BATCH))).all():
                if stopping.is_set():
                    break
                try:
                    if mail := await self._claim(session, mail_id):
                        claimed += 1
                        deliver = self._send if mail.code_id else self._expand
                        await deliver(session, mail)
                except Exception as error:  # noqa: BLE001 - the others' mail must not wait for it
                    await session.rollback()
                    # Not the error's text, which may have the address in it.
                    code = getattr(error, "code", None)
                    problem = {"mail": mail_id, "error": type(error).__name__, "code": code}
                    is_usual = isinstance(error, (aiosmtplib.SMTPException, OSError))
                    message = "A message could not be sent and will be retried"
                    _log.warning(message, extra=problem, exc_info=not is_usual)
        return claimed

    async def _claim(self, session: AsyncSession, mail_id: int) -> OutgoingMail | None:
        """None if another worker was faster."""
        now = await current_time(session)
        await begin_write(session)
        mail = await session.scalar(
            update(OutgoingMail)
            .where(OutgoingMail.id == mail_id, OutgoingMail.due_at <= now)
            .values(attempts=OutgoingMail.attempts + 1)
            .returning(OutgoingMail)
            .execution_options(populate_existing=True)
        )
        if mail:
            mail.due_at = now + CLAIM * 2 ** (mail.attempts - 1)
        await session.commit()
        return mail

    async def _expand(self, session: AsyncSession, request: OutgoingMail) -> None:
        """A mail for each of its accounts, counted, in place of the request."""
        context = RequestContext(
            session,
            self._clock(),
            request.ip_address,
            request.user_agent,
            request.accept_language,
            request.request_id,
        )
        purpose = Purpose.VERIFY if request.user_id else Purpose.RESET
        await begin_write(session)
        for user in await _owners(session, request):
            assert user.email
            try:
                await allow(session, "mailbox", normalize_email(user.email), MAILBOX)
            except TooManyAttemptsError as error:
                _drop(request.id, error)
                break
            if purpose == Purpose.RESET:
                await self._events.publish(context, "password_reset.request", user.id)
            code, _ = await codes.issue(context, purpose, user_id=user.id, email=user.email)
            # To the address of the account, not to the one that was typed and looks like it.
            await enqueue(context, user.email, code)
        await _remove(session, request)

    async def _send(self, session: AsyncSession, mail: OutgoingMail) -> None:
        try:
            await send(self._settings, await self._write(session, mail))
        except (EmailNotValidError, InvalidCodeError, MailRefusedError) as error:
            _drop(mail.id, error)
        await begin_write(session)
        await _remove(session, mail)

    async def _write(self, session: AsyncSession, mail: OutgoingMail) -> EmailMessage:
        """Raises InvalidCodeError if the code was used up, taken back, or is too old, and
        EmailNotValidError for an address of earlier times."""
        assert mail.code_id
        await begin_write(session)
        context = RequestContext(session, self._clock())
        code, text = await codes.replace(context, mail.code_id)
        values = {"code": text, "expires": f"{code.expires_at:%Y-%m-%d %H:%M} UTC"}
        if user := await session.get(User, code.user_id) if code.user_id else None:
            values["account"] = _account(user)
        await session.commit()
        template = _TEMPLATES[Purpose(code.purpose)]
        return compose(self._settings, template, mail.email, mail.accept_language, **values)


async def _owners(session: AsyncSession, request: OutgoingMail) -> Sequence[User]:
    """Of the address that a request names, as they stay until the transaction ends. Those who have
    verified it come first: strangers can register any number of accounts with it."""
    if request.user_id:
        unverified = (User.email == request.email, User.email_verified_at.is_(None))
        conditions = and_(User.is_enabled, User.id == request.user_id, *unverified)
    else:
        conditions = and_(User.is_enabled, User.email_folded == normalize_email(request.email))
    verified_first = (User.email_verified_at.is_(None), User.id)
    chosen = select(User.id).where(conditions).order_by(*verified_first).limit(MAX_ACCOUNTS)
    # Locked in the order of their ids, as everywhere, so that no two wait for each other.
    locked = select(User).where(conditions, User.id.in_(chosen)).order_by(User.id)
    locked = locked.with_for_update(key_share=True).execution_options(populate_existing=True)
    owners = (await session.scalars(locked)).all()
    return sorted(owners, key=lambda user: not user.email_verified)


async def _remove(session: AsyncSession, mail: OutgoingMail) -> None:
    await session.execute(delete(OutgoingMail).where(OutgoingMail.id == mail.id))
    await session.commit()


def _drop(mail_id: int, error: Exception) -> None:
    """Not with the error's text, as above."""
    problem = {"mail": mail_id, "error": type(error).__name__}
    _log.warning("Message discarded", extra=problem)


def _account(user: User) -> str:
    """A name may be an advertisement, until the mailbox is known to be its owner's."""
    return user.username if user.email_verified else f"#{user.id}"
