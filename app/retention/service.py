"""One round after another, in every worker; only the one that holds the lease does anything."""

import asyncio
import logging
import secrets
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, and_, delete, exists, or_, select, update
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import InstrumentedAttribute

from app.audit.models import Entry
from app.audit.service import MAX_STRANGERS, beyond
from app.background_jobs import pause
from app.context import Caller
from app.credentials.second_factors.models import SecondFactor
from app.credentials.second_factors.service import ENROLMENT
from app.credentials.sessions.models import Session
from app.database.engine import Database, begin_write
from app.database.fast_queries import current_time
from app.database.job_lock import Lease
from app.events import Events, Listener
from app.mail.models import Letter
from app.mail.service import KEPT_TRYING
from app.security.one_time_codes.models import Code
from app.security.rate_limits.models import Attempts
from app.security.rate_limits.service import spent
from app.settings import Settings
from app.tokens.revocations.models import Revocation
from app.tokens.revocations.service import has_expired
from app.tokens.signing_keys.store import KeyStore
from app.users.models import User

ROUND_SECONDS = 60
LEASE = timedelta(minutes=5)
BATCH = 500

_log = logging.getLogger("hourpass.housekeeping")


class Housekeeping:
    def __init__(
        self,
        database: Database,
        settings: Settings,
        listeners: Sequence[Listener] = (),
    ) -> None:
        self._database = database
        self._settings = settings
        self._listeners = listeners
        self._name = secrets.token_hex(8)

    async def keep_house(self, ending: asyncio.Event) -> None:
        """A failed round is logged; the next one makes up for it."""
        while True:
            try:
                await self.round()
            except Exception:  # noqa: BLE001 - one bad round must not be the last
                _log.exception("Housekeeping failed")
            if await pause(ending, ROUND_SECONDS):
                return

    async def round(self) -> bool:
        """Do what is due, if it is this worker's turn. Returns whether it was."""
        async with self._database.session() as session:
            # One clock for all hosts. A host that is hours ahead would otherwise purge what the
            # others still use, the key that signs for example.
            now = await current_time(session)
            if not await self._take_lease(session, now):
                return False
            await _purge(session, Revocation.position, has_expired())
            await _purge(session, Session.id, Session.expires_at <= now)
            await _purge(session, Session.id, ~_is_of_current_epoch)
            is_old = Entry.at <= now - timedelta(days=self._settings.audit_days)
            await _purge(session, Entry.id, is_old)
            await _purge(session, Entry.id, await beyond(session, MAX_STRANGERS))
            await _purge(session, Attempts.key, await spent(session, now))
            await _purge(session, Code.id, Code.expires_at <= now)
            await _purge(session, Letter.id, Letter.created_at <= now - KEPT_TRYING)
            # Some time after it could last have been confirmed.
            is_forgotten = SecondFactor.created_at <= now - 2 * ENROLMENT
            never_confirmed = SecondFactor.confirmed_at.is_(None)
            await _purge(session, SecondFactor.user_id, and_(never_confirmed, is_forgotten))
            keys = KeyStore(session, self._settings)
            await keys.rotate_if_due(now, Events(session, Caller(), self._listeners))
            await keys.purge(now)
            return True

    async def _take_lease(self, session: AsyncSession, now: datetime) -> bool:
        await begin_write(session)
        taken = await session.scalar(
            update(Lease)
            .where(or_(Lease.holder == self._name, Lease.expires_at <= now))
            .values(holder=self._name, expires_at=now + LEASE)
            .returning(Lease.name)
        )
        await session.commit()
        return taken is not None


_is_of_current_epoch = exists().where(User.id == Session.user_id, User.token_epoch == Session.epoch)


async def _purge(
    session: AsyncSession, key: InstrumentedAttribute[Any], condition: ColumnElement[bool]
) -> None:
    """Delete in batches that were looked for before, so that nobody waits long for the lock."""
    while found := (await session.scalars(select(key).where(condition).limit(BATCH))).all():
        await begin_write(session)
        await session.execute(delete(key.class_).where(key.in_(found), condition))
        await session.commit()
