"""Deletes expired rows, in batches. One worker at a time runs it (database/job_lock.py)."""

from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, and_, delete, exists, select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import InstrumentedAttribute

from app.audit.models import Entry
from app.audit.service import MAX_ANONYMOUS_FAILURES, older_anonymous_failures
from app.credentials.api_keys.models import ApiKey
from app.credentials.api_keys.service import KEPT_FOR
from app.credentials.second_factors.models import SecondFactor
from app.credentials.second_factors.service import ENROLLMENT_PERIOD
from app.credentials.sessions.models import Session
from app.database.engine import Database, begin_write
from app.database.job_lock import LockedJob
from app.mail.models import OutgoingMail
from app.mail.service import RETRY_PERIOD
from app.security.one_time_codes.models import Code
from app.security.rate_limits.models import AttemptCounter
from app.security.rate_limits.service import expired
from app.settings import Settings
from app.tokens.revocations.models import Revocation
from app.tokens.revocations.service import has_expired
from app.users.models import User
from app.webhooks.models import WebhookDelivery
from app.webhooks.outbox import KEPT_FOR as KEPT_DELIVERIES_FOR
from app.webhooks.outbox import MAX_DEAD_LETTERS, older_dead_letters

BATCH_SIZE = 500
SESSIONS_PER_RUN = 10_000

_WHOLE_ROWS = {"synchronize_session": False}

_is_of_current_version = exists().where(
    User.id == Session.user_id, User.token_version == Session.token_version
)


class Retention(LockedJob):
    def __init__(self, database: Database, settings: Settings) -> None:
        super().__init__("housekeeping", database, self._delete_expired)
        self._settings = settings
        self._checked_session = ""  # the id of the last one that was compared with its user

    async def _delete_expired(self, session: AsyncSession, now: datetime) -> None:
        await _delete(session, Revocation.position, has_expired())
        await _delete(session, Session.id, Session.expires_at <= now)
        await self._delete_revoked_sessions(session)
        await _delete(session, ApiKey.id, ApiKey.expires_at <= now - KEPT_FOR)
        is_old = Entry.at <= now - timedelta(days=self._settings.audit_days)
        await _delete(session, Entry.id, is_old, skip_locked=False)
        surplus = await older_anonymous_failures(session, MAX_ANONYMOUS_FAILURES)
        await _delete(session, Entry.id, surplus, skip_locked=False)
        await _delete(session, AttemptCounter.key, await expired(session, now))
        await _delete(session, Code.id, Code.expires_at <= now)
        await _delete(session, OutgoingMail.id, OutgoingMail.created_at <= now - RETRY_PERIOD)
        is_old = WebhookDelivery.created_at <= now - KEPT_DELIVERIES_FOR
        await _delete(session, WebhookDelivery.id, is_old)
        surplus = await older_dead_letters(session, MAX_DEAD_LETTERS)
        await _delete(session, WebhookDelivery.id, surplus)
        # Twice the period in which it can be confirmed.
        is_outdated = SecondFactor.created_at <= now - 2 * ENROLLMENT_PERIOD
        is_unconfirmed = SecondFactor.confirmed_at.is_(None)
        await _delete(session, SecondFactor.user_id, and_(is_unconfirmed, is_outdated))

    async def _delete_revoked_sessions(self, session: AsyncSession) -> None:
        """Sessions of former token versions, which are no longer valid. No index can find them, so
        each run compares the next SESSIONS_PER_RUN."""
        is_next = Session.id > self._checked_session
        by_id = select(Session.id).where(is_next).order_by(Session.id)
        last = await session.scalar(by_id.offset(SESSIONS_PER_RUN - 1).limit(1))
        if last is not None:
            is_next = and_(is_next, Session.id <= last)
        await _delete(session, Session.id, and_(is_next, ~_is_of_current_version))
        self._checked_session = last or ""


async def _delete(
    session: AsyncSession,
    key: InstrumentedAttribute[Any],
    condition: ColumnElement[bool],
    *,
    skip_locked: bool = True,
) -> None:
    """Delete the rows in batches, so that other transactions do not wait long for the lock.

    Rows that others have locked are left to the next run. A batch has no order that others could
    keep to, so waiting for them could end in a deadlock. `skip_locked` is False for the audit log:
    nobody else locks its rows, and the service may lack the right to do so.
    """
    while batch := (await session.scalars(select(key).where(condition).limit(BATCH_SIZE))).all():
        chosen = select(key).where(key.in_(batch), condition)
        if skip_locked:
            chosen = chosen.with_for_update(skip_locked=True)
        await begin_write(session)
        statement = delete(key.class_).where(key.in_(chosen)).returning(key)
        deleted = (await session.scalars(statement, execution_options=_WHOLE_ROWS)).all()
        await session.commit()
        if not deleted:
            return
