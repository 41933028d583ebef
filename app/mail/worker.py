"""Sends what waits in the outbox. Any worker may: each letter is claimed for a while first, so a
letter whose worker dies is sent by another one.

A letter without a code is a wish. Only here is it looked whose its address is, so asking for a new
password takes the same time for every address; and only wishes are counted against the mailbox, so
that no stranger's keep an administrator's letter away. In place of a wish come letters with a code,
each of one message, in one transaction. A code exists in clear text only between here and the mail
server.
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

from app.background_jobs import pause
from app.context import Caller
from app.database.engine import Database, begin_write
from app.database.fast_queries import current_time
from app.events import Events, Listener
from app.mail.messages import compose
from app.mail.models import Letter
from app.mail.service import post
from app.mail.smtp import MailRefusedError, send
from app.security.one_time_codes import service as codes
from app.security.one_time_codes.errors import InvalidCodeError
from app.security.one_time_codes.service import Purpose
from app.security.rate_limits.errors import TooManyAttemptsError
from app.security.rate_limits.service import MAILBOX, allow
from app.settings import Settings
from app.users.models import User, fold_email

ROUND_SECONDS = 2
BATCH = 20
CLAIM = timedelta(minutes=5)  # and how long a letter waits, then twice as long, if it is not taken
MAX_ACCOUNTS = 5  # of one address, that get a code when it asks for new passwords

_log = logging.getLogger("hourpass.mail")


class Postman:
    def __init__(
        self,
        database: Database,
        settings: Settings,
        listeners: Sequence[Listener],
        clock: Callable[[], datetime],
    ) -> None:
        self._database = database
        self._settings = settings
        self._listeners = listeners
        self._clock = clock

    async def deliver(self, ending: asyncio.Event) -> None:
        """Round after round. What fails is logged, and tried again later."""
        while not ending.is_set():
            try:
                while await self.round(ending):
                    pass
            except Exception:  # noqa: BLE001 - one bad round must not be the last
                _log.exception("Delivering mail failed")
            await pause(ending, ROUND_SECONDS)

    async def round(self, ending: asyncio.Event) -> int:
        """How many letters this worker took in hand."""
        claimed = 0
        async with self._database.session() as session:
            now = await current_time(session)
            due = select(Letter.id).where(Letter.due_at <= now).order_by(Letter.due_at)
            for letter_id in (await session.scalars(due.limit(BATCH))).all():
                if ending.is_set():
                    break
                try:
                    if letter := await self._claim(session, letter_id):
                        claimed += 1
                        deliver = self._send if letter.code_id else self._open
                        await deliver(session, letter)
                except Exception as error:  # noqa: BLE001 - the others' mail must not wait for it
                    await session.rollback()
                    # Not the error's text, which may have the address in it.
                    code = getattr(error, "code", None)
                    problem = {"letter": letter_id, "error": type(error).__name__, "code": code}
                    is_usual = isinstance(error, (aiosmtplib.SMTPException, OSError))
                    message = "A mail could not be sent; it will be tried again"
                    _log.warning(message, extra=problem, exc_info=not is_usual)
        return claimed

    async def _claim(self, session: AsyncSession, letter_id: int) -> Letter | None:
        """None if another worker was faster."""
        now = await current_time(session)
        await begin_write(session)
        letter = await session.scalar(
            update(Letter)
            .where(Letter.id == letter_id, Letter.due_at <= now)
            .values(attempts=Letter.attempts + 1)
            .returning(Letter)
            .execution_options(populate_existing=True)
        )
        if letter:
            letter.due_at = now + CLAIM * 2 ** (letter.attempts - 1)
        await session.commit()
        return letter

    async def _open(self, session: AsyncSession, wish: Letter) -> None:
        """A letter for each of its accounts, counted, in place of the wish."""
        now = self._clock()
        caller = Caller(wish.address, wish.user_agent, wish.languages)
        events = Events(session, caller, self._listeners, wish.request_id)
        purpose = Purpose.VERIFY if wish.user_id else Purpose.RESET
        await begin_write(session)
        for user in await _owners(session, wish):
            assert user.email
            try:
                await allow(session, "mailbox", fold_email(user.email), MAILBOX)
            except TooManyAttemptsError as error:
                _drop(wish.id, error)
                break
            if purpose == Purpose.RESET:
                await events.announce("password_reset.request", user.id, now)
            code, _ = await codes.issue(session, purpose, now, user_id=user.id, email=user.email)
            # To the address of the account, not to the one that was typed and looks like it.
            await post(session, user.email, caller, code=code)
        await _remove(session, wish)

    async def _send(self, session: AsyncSession, letter: Letter) -> None:
        try:
            await send(self._settings, await self._write(session, letter))
        except (EmailNotValidError, InvalidCodeError, MailRefusedError) as error:
            _drop(letter.id, error)
        await begin_write(session)
        await _remove(session, letter)

    async def _write(self, session: AsyncSession, letter: Letter) -> EmailMessage:
        """Raises InvalidCodeError if the code was used up, taken back, or is too old, and
        EmailNotValidError for an address of earlier times."""
        assert letter.code_id
        await begin_write(session)
        code, text = await codes.redraw(session, letter.code_id, self._clock())
        values = {"code": text, "expires": f"{code.expires_at:%Y-%m-%d %H:%M} UTC"}
        if user := await session.get(User, code.user_id) if code.user_id else None:
            values["account"] = _account(user)
        await session.commit()
        return compose(self._settings, code.purpose, letter.email, letter.languages, **values)


async def _owners(session: AsyncSession, wish: Letter) -> Sequence[User]:
    """Of the address that a wish names, as they stay until the transaction ends. Those who have
    verified it come first: strangers can register any number of accounts with it."""
    if wish.user_id:
        unverified = (User.email == wish.email, User.email_verified_at.is_(None))
        conditions = and_(User.is_enabled, User.id == wish.user_id, *unverified)
    else:
        conditions = and_(User.is_enabled, User.email_folded == fold_email(wish.email))
    verified_first = (User.email_verified_at.is_(None), User.id)
    chosen = select(User.id).where(conditions).order_by(*verified_first).limit(MAX_ACCOUNTS)
    # Locked in the order of their ids, as everywhere, so that no two wait for each other.
    locked = select(User).where(conditions, User.id.in_(chosen)).order_by(User.id)
    locked = locked.with_for_update(key_share=True).execution_options(populate_existing=True)
    owners = (await session.scalars(locked)).all()
    return sorted(owners, key=lambda user: not user.email_verified)


async def _remove(session: AsyncSession, letter: Letter) -> None:
    await session.execute(delete(Letter).where(Letter.id == letter.id))
    await session.commit()


def _drop(letter_id: int, error: Exception) -> None:
    """Not with the error's text, as above."""
    problem = {"letter": letter_id, "error": type(error).__name__}
    _log.warning("A mail was dropped", extra=problem)


def _account(user: User) -> str:
    """A name may be an advertisement, until the mailbox is known to be its owner's."""
    return user.username if user.email_verified else f"#{user.id}"
