"""Sends one mail that the worker has claimed, and records the result.

Each try sends the same code, with the same Message-ID: the mail server may have accepted an earlier
try without the service knowing. So the text of the code stays with the mail, encrypted, until it is
sent.

Every transaction locks the code before the mail, as one that deletes a code does.
"""

import asyncio
import hashlib
import logging
import secrets
from collections.abc import Callable
from datetime import datetime, timedelta
from email.message import EmailMessage

from email_validator import EmailNotValidError
from pydantic import SecretStr
from sqlalchemy import delete, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from app.background_jobs import StoppedError, finish_or_stop
from app.context import RequestContext
from app.database.engine import begin_write
from app.database.fast_queries import current_time
from app.events import Events
from app.mail.messages import compose
from app.mail.models import OutgoingMail
from app.mail.notices import MailContent, OutdatedNoticeError, compose_notice
from app.mail.service import RETRY_PERIOD
from app.mail.smtp import SendError, send
from app.security.encryption import DecryptionError, Encryptor
from app.security.one_time_codes import service as codes
from app.security.one_time_codes.errors import InvalidCodeError
from app.security.one_time_codes.models import Code
from app.security.one_time_codes.service import MailState, Purpose
from app.settings import Settings
from app.users.models import User

FIRST_DELAY = timedelta(minutes=1)  # before the second try; it doubles with each further one
MAX_DELAY = timedelta(hours=1)
MIN_TRIES = 10  # within the time in which the code is useful
STOP_SECONDS = 5.0  # for the mail server, when the process ends
IDENTICAL_FAILURES = 3  # so many in a row are an error of the mail server or the settings

TEMPLATES = {
    Purpose.RESET: "reset",
    Purpose.ADMIN_RESET: "forced_password_reset",
    Purpose.VERIFY: "verify",
    Purpose.INVITE: "invite",
}

Reply = dict[str, object]  # fields of SendError
_NOT_IN_SESSION = {"synchronize_session": False}

_log = logging.getLogger("hourpass.mail")


class Delivery:
    def __init__(self, settings: Settings, events: Events, clock: Callable[[], datetime]) -> None:
        self._settings = settings
        self._events = events
        self._clock = clock
        key = settings.secret_key or SecretStr(secrets.token_urlsafe(32))
        self._encryptor = Encryptor(settings.model_copy(update={"secret_key": key}), "queued codes")
        self._last_failure: dict[str, object] = {}
        self._failed_mail_id = 0
        self._identical_failures = 0
        self.sent = 0
        self.failed_tries = 0

    async def deliver(
        self, session: AsyncSession, mail: OutgoingMail, stopping: asyncio.Event
    ) -> bool:
        """Send the mail, and delete it unless it has to be tried again. Returns False if the mail
        server accepts no mail at all."""
        try:
            content = await self._prepare(session, mail)
        except InvalidCodeError:  # used, revoked or expired since it was queued
            _log.info("Message discarded: its code is invalid", extra={"mail": mail.id})
            await _finish(session, mail)
            return True
        except OutdatedNoticeError:
            _log.info("Message discarded: its user has changed", extra={"mail": mail.id})
            await _finish(session, mail)
            return True
        try:
            message = self._compose(mail, content)
            await finish_or_stop(send(self._settings, message), stopping, STOP_SECONDS)
        except EmailNotValidError:  # an address that older versions accepted
            await self._fail(session, mail, content, {"step": "address"})
        except StoppedError:  # before the mail server replied
            await postpone(session, mail)
        except SendError as error:
            self.failed_tries += 1
            await self._retry_or_fail(session, mail, content, error)
            return not error.concerns_all_mail
        else:
            self._identical_failures = 0
            self.sent += 1
            await _finish(session, mail, mail_state=MailState.SENT)
            await _release_waiting(session)
        return True

    async def _prepare(self, session: AsyncSession, mail: OutgoingMail) -> MailContent:
        """Raises InvalidCodeError and OutdatedNoticeError."""
        if mail.notice:
            return await compose_notice(session, mail)
        assert mail.code_id
        await begin_write(session)
        context = RequestContext(session, self._clock())
        known_text = self._known_text(mail)
        code, text = await codes.text_to_mail(
            context, mail.code_id, known_text, is_first_try=mail.attempts == 1
        )
        if text != known_text:
            await session.flush()  # the code before the mail
            await _update(session, mail, encrypted_code=self._encryptor.encrypt(text))
        values = {"code": text, "expires": f"{code.expires_at:%Y-%m-%d %H:%M} UTC"}
        if user := await session.get(User, code.user_id) if code.user_id else None:
            values["account"] = _account_name(user)
        await session.commit()
        # The same for the same text. It reveals nothing about it: neither the text nor its hash can
        # be computed from it.
        message_id = hashlib.sha256(b"Message-ID" + code.code_hash).hexdigest()[:32]
        purpose = Purpose(code.purpose)
        details = {"invitation": str(code.id)} if purpose is Purpose.INVITE else {}
        return MailContent(
            TEMPLATES[purpose], values, message_id, code.expires_at, code.user_id, details
        )

    def _known_text(self, mail: OutgoingMail) -> str | None:
        """The text that an earlier try sent. None if it cannot be decrypted: SECRET_KEY was
        changed, or it is not set and another process sent it."""
        if mail.encrypted_code is None:
            return None
        try:
            return self._encryptor.decrypt(mail.encrypted_code)
        except DecryptionError:
            return None

    def _compose(self, mail: OutgoingMail, content: MailContent) -> EmailMessage:
        """Raises EmailNotValidError."""
        return compose(
            self._settings,
            content.template,
            mail.email,
            mail.accept_language,
            message_id=content.message_id,
            date=mail.created_at,
            **content.values,
        )

    async def _retry_or_fail(
        self, session: AsyncSession, mail: OutgoingMail, content: MailContent, error: SendError
    ) -> None:
        is_repeated = self._is_repeated(mail, error)
        level = logging.ERROR if is_repeated else logging.WARNING
        now = await current_time(session)
        useful_until = min(content.useful_until, mail.created_at + RETRY_PERIOD)
        due_at = now + _delay(mail.attempts, useful_until - mail.created_at)
        if error.is_final or due_at >= useful_until:
            await self._fail(session, mail, content, error.fields(), level)
            return
        waits_for_server = is_repeated or error.concerns_all_mail
        await begin_write(session)
        await _update_code(session, mail, MailState.QUEUED, error.fields())
        await _update(session, mail, due_at=due_at, waits_for_server=waits_for_server)
        await session.commit()
        _log.log(level, "Cannot send a message, will retry", extra=_extra(mail, error.fields()))

    async def _fail(
        self,
        session: AsyncSession,
        mail: OutgoingMail,
        content: MailContent,
        reply: Reply,
        level: int = logging.WARNING,
    ) -> None:
        """Give up on the mail."""
        details = {name: str(value) for name, value in reply.items() if value is not None}
        await begin_write(session)
        await _update_code(session, mail, MailState.FAILED, reply)
        await self._events.publish(
            mail.context(session, self._clock()),
            "mail.fail",
            content.user_id,
            succeeded=False,
            mail=content.template,
            **content.details,
            **details,
        )
        await session.execute(delete(OutgoingMail).where(OutgoingMail.id == mail.id))
        await session.commit()
        _log.log(level, "Message discarded", extra=_extra(mail, reply))

    def _is_repeated(self, mail: OutgoingMail, error: SendError) -> bool:
        """Whether this is one of IDENTICAL_FAILURES or more in a row. Another try of the same mail
        counts only if the failure concerns all mail."""
        failure = error.fields()
        if failure != self._last_failure:
            self._last_failure, self._identical_failures = failure, 0
        elif mail.id == self._failed_mail_id and not error.concerns_all_mail:
            return False
        self._failed_mail_id = mail.id
        self._identical_failures += 1
        return self._identical_failures >= IDENTICAL_FAILURES


async def postpone(session: AsyncSession, mail: OutgoingMail) -> None:
    """Try again, after an error that is not the mail server's."""
    now = await current_time(session)
    await begin_write(session)
    await _update(session, mail, due_at=now + _delay(mail.attempts, RETRY_PERIOD))
    await session.commit()


def _delay(attempts: int, useful_for: timedelta) -> timedelta:
    """How long to wait after that many tries of a mail that is useful for a limited time."""
    doubled: timedelta = FIRST_DELAY * 2 ** min(attempts - 1, 10)
    return min(doubled, MAX_DELAY, useful_for / MIN_TRIES)


async def _finish(
    session: AsyncSession, mail: OutgoingMail, mail_state: MailState | None = None
) -> None:
    await begin_write(session)
    if mail_state:
        await _update_code(session, mail, mail_state, {})
    await session.execute(delete(OutgoingMail).where(OutgoingMail.id == mail.id))
    await session.commit()


async def _update(session: AsyncSession, mail: OutgoingMail, **values: object) -> None:
    this = update(OutgoingMail).where(OutgoingMail.id == mail.id)
    await session.execute(this.values(**values), execution_options=_NOT_IN_SESSION)


async def _update_code(
    session: AsyncSession, mail: OutgoingMail, state: MailState, reply: Reply
) -> None:
    if mail.code_id is None:
        return
    await session.execute(
        update(Code)
        .where(Code.id == mail.code_id)
        .values(
            mail_state=state,
            mail_reply_code=reply.get("reply_code"),
            mail_enhanced_code=reply.get("enhanced_code"),
        ),
        execution_options=_NOT_IN_SESSION,
    )


async def _release_waiting(session: AsyncSession) -> None:
    """The mail server works again: all mail that waits for it is due."""
    is_waiting = OutgoingMail.waits_for_server
    if await session.scalar(select(OutgoingMail.id).where(is_waiting).limit(1)) is None:
        return
    now = await current_time(session)
    await begin_write(session)
    # Rows that another transaction has locked are tried as planned. Waiting for them could be a
    # deadlock, since transactions lock several rows in any order.
    unlocked = select(OutgoingMail.id).where(is_waiting).with_for_update(skip_locked=True)
    await session.execute(
        update(OutgoingMail)
        .where(OutgoingMail.id.in_(unlocked))
        .values(due_at=now, waits_for_server=False),
        execution_options=_NOT_IN_SESSION,
    )
    await session.commit()


def _extra(mail: OutgoingMail, reply: Reply) -> dict[str, object]:
    """The fields of a log line: neither the address nor the server's text, which may quote it."""
    return {"mail": mail.id, **reply}


def _account_name(user: User) -> str:
    """Without the username while the address is unverified: a stranger may have chosen it as
    advertising."""
    return user.username if user.email_verified else f"#{user.id}"
