"""Sends the mail in the outbox. Every worker runs this job (database/outbox.py).

A row without a code and without a notice is a request. The accounts of its address are looked up
only here, so that a password reset takes the same time for every address. A request is replaced, in
one transaction, by one mail with a code for each account. Only requests count towards the limits of
a mailbox, so that strangers cannot block the mail of administrators. Codes exist in plain text only
between here and the mail server.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from typing import ClassVar

from sqlalchemy import and_, delete, select
from sqlalchemy.ext.asyncio import AsyncSession

from app.database.engine import Database, begin_write
from app.database.failure_log import FailureLog
from app.database.fast_queries import current_time
from app.database.outbox import OutboxWorker
from app.events import Events
from app.mail.delivery import Delivery, postpone
from app.mail.models import OutgoingMail
from app.mail.service import enqueue
from app.security.one_time_codes import service as codes
from app.security.one_time_codes.service import Purpose
from app.security.rate_limits.errors import TooManyAttemptsError
from app.security.rate_limits.limits import (
    MAILBOX,
    MAILBOX_FROM_ELSEWHERE,
    MAILBOX_FROM_NETWORK,
)
from app.security.rate_limits.service import enforce_limit, is_known, network_to_limit
from app.settings import Settings
from app.users.models import User, normalize_email

BATCH_SIZE = 20
# As long as a try can take, so that no other worker sends the mail meanwhile.
CLAIM_PERIOD = timedelta(minutes=14)
# A mail that takes longer does not hold up the next one. So many are sent at the same time.
NEXT_MAIL_SECONDS = 5.0
MAX_SENDING = 4
MAX_ACCOUNTS = 5  # with one address that get a code by one password reset

_REQUEST = "password_reset.request"

_log = logging.getLogger("hourpass.mail")


class MailWorker(OutboxWorker[OutgoingMail]):
    name: ClassVar = "mail"  # for metrics
    claimed_values: ClassVar = {"waits_for_server": False}

    def __init__(
        self,
        database: Database,
        settings: Settings,
        events: Events,
        clock: Callable[[], datetime],
    ) -> None:
        failures = FailureLog(_log, "Cannot send mail")
        super().__init__(database, OutgoingMail, CLAIM_PERIOD, failures)
        self._events = events
        self._clock = clock
        self.delivery = Delivery(settings, events, clock)
        self._is_server_available = True

    def can_continue(self) -> bool:
        return self._is_server_available

    async def run_once(self, stopping: asyncio.Event) -> int:
        """Returns how many mails this worker claimed. Ends early if the mail server is unavailable:
        one mail in a round is enough to find out."""
        claimed = 0
        self._is_server_available = True  # until a mail finds out
        async with self._database.session() as session:
            now = await current_time(session)
            due = (
                select(OutgoingMail.id)
                .where(OutgoingMail.due_at <= now)
                .order_by(OutgoingMail.due_at, OutgoingMail.id)
            )
            for mail_id in (await session.scalars(due.limit(BATCH_SIZE))).all():
                if stopping.is_set():
                    break
                if mail := await self.claim(session, mail_id):
                    claimed += 1
                    await self._send_next(mail, stopping)
                    if not self._is_server_available:
                        break
        return claimed

    async def _send_next(self, mail: OutgoingMail, stopping: asyncio.Event) -> None:
        """Process the mail, and wait for that, but not long."""
        await asyncio.wait({self.start(mail, stopping)}, timeout=NEXT_MAIL_SECONDS)
        if len(self._sending) >= MAX_SENDING:
            await asyncio.wait(self._sending, return_when=asyncio.FIRST_COMPLETED)

    async def process(self, mail: OutgoingMail, stopping: asyncio.Event) -> None:
        try:
            async with self._database.session() as session:
                if mail.code_id or mail.notice:
                    is_available = await self.delivery.deliver(session, mail, stopping)
                    self._is_server_available = is_available
                else:
                    await self._expand(session, mail)
        except Exception as error:  # noqa: BLE001 - a mail that fails must not stop the others
            # Without the error's text, which may contain the address.
            problem = {"mail": mail.id, "error": type(error).__name__}
            _log.warning("Cannot send a message, will retry", extra=problem, exc_info=True)
            with suppress(Exception):  # otherwise it is due when the claim ends
                async with self._database.session() as session:
                    await postpone(session, mail)

    async def _expand(self, session: AsyncSession, request: OutgoingMail) -> None:
        """Replace the request by a mail for each account, and count them."""
        context = request.context(session, self._clock())
        purpose = Purpose.VERIFY if request.user_id else Purpose.RESET
        await begin_write(session)
        for user in await _accounts(session, request):
            assert user.email
            try:
                await _count(session, request.ip_address, user)
            except TooManyAttemptsError as error:
                _log_discarded(request.id, error)
                if purpose == Purpose.RESET:
                    await self._events.publish(
                        context, _REQUEST, user.id, succeeded=False, reason="too many messages"
                    )
                continue
            if purpose == Purpose.RESET:
                await self._events.publish(context, _REQUEST, user.id)
            code, _ = await codes.issue(context, purpose, user_id=user.id, email=user.email)
            # Not to the requested address, which may look alike and belong to an attacker.
            await enqueue(context, user.email, code)
        await _remove(session, request)


async def _accounts(session: AsyncSession, request: OutgoingMail) -> Sequence[User]:
    """The accounts with the address of a request, locked until the end of the transaction. Those
    that have verified the address come first, since strangers can register any number with it."""
    if request.user_id:
        unverified = (User.email == request.email, User.email_verified_at.is_(None))
        conditions = and_(User.is_enabled, User.id == request.user_id, *unverified)
    else:
        conditions = and_(User.is_enabled, User.email_folded == normalize_email(request.email))
    verified_first = (User.email_verified_at.is_(None), User.id)
    chosen = select(User.id).where(conditions).order_by(*verified_first).limit(MAX_ACCOUNTS)
    # Locked in the order of their ids, as everywhere, so that there is no deadlock.
    locked = select(User).where(conditions, User.id.in_(chosen)).order_by(User.id)
    locked = locked.with_for_update(key_share=True).execution_options(populate_existing=True)
    users = (await session.scalars(locked)).all()
    return sorted(users, key=lambda user: not user.email_verified)


async def _count(session: AsyncSession, ip_address: str, user: User) -> None:
    """Count a message to the user's mailbox.

    Strangers cannot use up what the user can request in a network in which the user has logged in.
    That takes a verified address, since strangers can register any number of accounts with it.
    Raises TooManyAttemptsError.
    """
    assert user.email
    mailbox, network = normalize_email(user.email), network_to_limit(ip_address)
    if network and user.email_verified and await is_known(session, user.username_folded, network):
        await enforce_limit(session, "known mailbox", f"{user.id}\n{network}", MAILBOX)
        return
    if network:
        # First: what is refused here must not count for the others.
        subject = f"{mailbox}\n{network}"
        await enforce_limit(session, "mailbox from", subject, MAILBOX_FROM_NETWORK)
    await enforce_limit(session, "mailbox", mailbox, MAILBOX_FROM_ELSEWHERE)


async def _remove(session: AsyncSession, mail: OutgoingMail) -> None:
    await session.execute(delete(OutgoingMail).where(OutgoingMail.id == mail.id))
    await session.commit()


def _log_discarded(mail_id: int, error: Exception) -> None:
    """Without the error's text, which may contain the address."""
    problem = {"mail": mail_id, "error": type(error).__name__}
    _log.warning("Message discarded", extra=problem)
