"""Sends what waits in the outbox. Any worker may: each letter is claimed for a while first, so a
letter whose worker dies is sent by another one.

Only here is it looked whose an address is, so asking for a new password takes the same time for
every address, and a code exists in clear text only between here and the mail server.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from email.message import EmailMessage

import aiosmtplib
from sqlalchemy import delete, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from app.caller import Caller
from app.chores import pause
from app.codes import service as codes
from app.codes.errors import InvalidCodeError
from app.codes.service import Purpose
from app.database import Database, begin_write
from app.events import Events, Listener
from app.mail.messages import compose
from app.mail.models import Letter
from app.mail.smtp import send
from app.settings import Settings
from app.throttle.errors import TooManyAttemptsError
from app.throttle.service import MAILBOX, Throttle
from app.users.models import User, fold_email

ROUND_SECONDS = 2
BATCH = 20
CLAIM = timedelta(minutes=5)  # and how long a letter waits that the server would not take
MAX_ACCOUNTS = 5  # of one address, that get a code when it asks for new passwords

_log = logging.getLogger("hourpass.mail")


class Postman:
    def __init__(
        self,
        database: Database,
        settings: Settings,
        throttle: Throttle,
        listeners: Sequence[Listener],
        clock: Callable[[], datetime],
    ) -> None:
        self._database = database
        self._settings = settings
        self._throttle = throttle
        self._listeners = listeners
        self._clock = clock

    async def deliver(self, ending: asyncio.Event) -> None:
        """Round after round. What fails is logged, and tried again later."""
        while not ending.is_set():
            try:
                while await self.round(ending) == BATCH:
                    pass
            except Exception:  # noqa: BLE001 - one bad round must not be the last
                _log.exception("Delivering mail failed")
            await pause(ending, ROUND_SECONDS)

    async def round(self, ending: asyncio.Event) -> int:
        """How many letters were at hand."""
        async with self._database.session() as session:
            letters = await self._claim(session)
            for letter in letters:
                if ending.is_set() or self._clock() >= letter.due_at:
                    break  # the rest is another worker's by now, or will be another process's
                try:
                    await self._deliver(session, letter)
                except (aiosmtplib.SMTPException, OSError) as error:
                    # Not the error's text, which may have the address in it.
                    code = getattr(error, "code", None)
                    problem = {"letter": letter.id, "error": type(error).__name__, "code": code}
                    _log.warning("A mail could not be sent; it will be tried again", extra=problem)
            return len(letters)

    async def _claim(self, session: AsyncSession) -> Sequence[Letter]:
        now = self._clock()
        due = select(Letter.id).where(Letter.due_at <= now).order_by(Letter.due_at).limit(BATCH)
        ids = (await session.scalars(due)).all()
        if not ids:
            return ()
        await begin_write(session)
        claimed = await session.scalars(
            update(Letter)
            .where(Letter.id.in_(ids), Letter.due_at <= now)  # not if another worker was faster
            .values(attempts=Letter.attempts + 1, due_at=now + CLAIM)
            .returning(Letter)
            .execution_options(populate_existing=True)
        )
        letters = claimed.all()
        await session.commit()
        return letters

    async def _deliver(self, session: AsyncSession, letter: Letter) -> None:
        for message in await self._write(session, letter):
            try:
                await send(self._settings, message)
            except (aiosmtplib.SMTPDataError, aiosmtplib.SMTPRecipientsRefused) as error:
                if not _is_final(error):
                    raise
                _log.warning("A mail was refused for good", extra={"letter": letter.id})
        await begin_write(session)
        await session.execute(delete(Letter).where(Letter.id == letter.id))
        await session.commit()

    async def _write(self, session: AsyncSession, letter: Letter) -> list[EmailMessage]:
        """The messages of a letter; none if nobody has the address, or it got too many today."""
        now = self._clock()
        users: Sequence[User] = ()
        if letter.code_id is None:
            users = await _owners(session, letter.email)
        await session.commit()
        if letter.attempts == 1 and (users or letter.code_id):
            try:
                mailbox = fold_email(letter.email)
                await self._throttle.count(session, "mailbox", mailbox, MAILBOX, now)
            except TooManyAttemptsError:
                return []
        await begin_write(session)
        if letter.code_id is None:
            messages = [await self._write_reset(session, letter, user, now) for user in users]
        else:
            messages = await self._write_code(session, letter, now)
        await session.commit()
        return messages

    async def _write_reset(
        self, session: AsyncSession, letter: Letter, user: User, now: datetime
    ) -> EmailMessage:
        if letter.attempts == 1:
            caller = Caller(letter.address, letter.user_agent)
            events = Events(session, caller, self._listeners)
            await events.announce("password_reset.request", user.id, now)
        code, text = await codes.issue(
            session, Purpose.RESET, now, user_id=user.id, email=user.email
        )
        values = {"code": text, "expires": _moment(code.expires_at), "account": _account(user)}
        assert user.email
        # To the address of the account, not to the one that was typed and looks like it.
        return compose(self._settings, "reset", user.email, letter.languages, **values)

    async def _write_code(
        self, session: AsyncSession, letter: Letter, now: datetime
    ) -> list[EmailMessage]:
        assert letter.code_id
        try:
            code, text = await codes.redraw(session, letter.code_id, now)
        except InvalidCodeError:  # used up, taken back, or too old
            return []
        values = {"code": text, "expires": _moment(code.expires_at)}
        if user := await session.get(User, code.user_id) if code.user_id else None:
            values["account"] = _account(user)
        return [compose(self._settings, code.purpose, letter.email, letter.languages, **values)]


async def _owners(session: AsyncSession, email: str) -> Sequence[User]:
    enabled = select(User).where(User.email_folded == fold_email(email), User.is_enabled)
    return (await session.scalars(enabled.order_by(User.id).limit(MAX_ACCOUNTS))).all()


def _is_final(error: aiosmtplib.SMTPDataError | aiosmtplib.SMTPRecipientsRefused) -> bool:
    """RFC 5321, 4.2.1: a code of 500 or more. One for the login or the sender is no letter's."""
    if isinstance(error, aiosmtplib.SMTPDataError):
        return error.code >= 500
    return all(refusal.code >= 500 for refusal in error.recipients)


def _account(user: User) -> str:
    """A name may be an advertisement, until the mailbox is known to be its owner's."""
    return user.username if user.email_verified else f"#{user.id}"


def _moment(at: datetime) -> str:
    return f"{at:%Y-%m-%d %H:%M} UTC"
