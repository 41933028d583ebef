from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, and_, delete, exists, select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import InstrumentedAttribute

from app.audit.models import Entry
from app.audit.service import MAX_ANONYMOUS_FAILURES, older_anonymous_failures
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

BATCH_SIZE = 500

_is_of_current_version = exists().where(
    User.id == Session.user_id, User.token_version == Session.token_version
)


class Retention(LockedJob):
    def __init__(self, database: Database, settings: Settings) -> None:
        super().__init__("housekeeping", database, self._delete_expired)
        self._settings = settings

    async def _delete_expired(self, session: AsyncSession, now: datetime) -> None:
        await _delete(session, Revocation.position, has_expired())
        await _delete(session, Session.id, Session.expires_at <= now)
        await _delete(session, Session.id, ~_is_of_current_version)
        is_old = Entry.at <= now - timedelta(days=self._settings.audit_days)
        await _delete(session, Entry.id, is_old)
        surplus = await older_anonymous_failures(session, MAX_ANONYMOUS_FAILURES)
        await _delete(session, Entry.id, surplus)
        await _delete(session, AttemptCounter.key, await expired(session, now))
        await _delete(session, Code.id, Code.expires_at <= now)
        await _delete(session, OutgoingMail.id, OutgoingMail.created_at <= now - RETRY_PERIOD)
        # Twice the period in which it can be confirmed.
        is_outdated = SecondFactor.created_at <= now - 2 * ENROLLMENT_PERIOD
        is_unconfirmed = SecondFactor.confirmed_at.is_(None)
        await _delete(session, SecondFactor.user_id, and_(is_unconfirmed, is_outdated))


async def _delete(
    session: AsyncSession, key: InstrumentedAttribute[Any], condition: ColumnElement[bool]
) -> None:
    """Delete the rows in batches, so that other transactions do not wait long for the lock."""
    while batch := (await session.scalars(select(key).where(condition).limit(BATCH_SIZE))).all():
        await begin_write(session)
        await session.execute(delete(key.class_).where(key.in_(batch), condition))
        await session.commit()
