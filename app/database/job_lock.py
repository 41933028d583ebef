"""Periodic jobs, each of which runs in one worker at a time."""

import logging
import secrets
from asyncio import Event
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta

from sqlalchemy import String, or_
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Mapped, mapped_column

from app.background_jobs import wait_or_stop
from app.database.base import Base
from app.database.engine import Database, begin_write
from app.database.failure_log import FailureLog
from app.database.fast_queries import current_time
from app.database.upserts import upsert

INTERVAL_SECONDS = 60
LOCK_PERIOD = timedelta(minutes=5)

_log = logging.getLogger("hourpass.jobs")


class JobLock(Base):
    """The worker that runs a job, and until when. If it dies, another worker takes over then."""

    __tablename__ = "leases"

    name: Mapped[str] = mapped_column(String(32), primary_key=True)
    holder: Mapped[str] = mapped_column(String(32))
    expires_at: Mapped[datetime]


class LockedJob:
    """Runs `work` every INTERVAL_SECONDS in the worker that has the lock.

    `work` gets a session and the database's time. By its own clock, a host that is hours ahead
    would delete what the others still use.
    """

    def __init__(
        self,
        name: str,
        database: Database,
        work: Callable[[AsyncSession, datetime], Awaitable[None]],
    ) -> None:
        self.name = name
        self._database = database
        self._work = work
        self._holder = secrets.token_hex(8)
        self.failures = FailureLog(_log, f"The job {name} failed")

    async def run(self, stopping: Event) -> None:
        """The next run does what a failed one left undone."""
        while True:
            try:
                has_worked = await self.run_once()
            except Exception as error:  # noqa: BLE001 - any error is logged, and the job runs again
                self.failures.failed(error)
            else:
                self.failures.succeeded(has_worked=has_worked)
            if await wait_or_stop(stopping, INTERVAL_SECONDS):
                return

    async def run_once(self) -> bool:
        """Returns whether this worker has the lock."""
        async with self._database.session() as session:
            now = await current_time(session)
            if not await self._acquire(session, now):
                return False
            await self._work(session, now)
            return True

    async def _acquire(self, session: AsyncSession, now: datetime) -> bool:
        lock = {"holder": self._holder, "expires_at": now + LOCK_PERIOD}
        statement = upsert(session, JobLock).values(name=self.name, **lock)
        statement = statement.on_conflict_do_update(
            index_elements=[JobLock.name],
            set_=lock,
            where=or_(JobLock.holder == self._holder, JobLock.expires_at <= now),
        )
        await begin_write(session)
        acquired = await session.scalar(statement.returning(JobLock.name))
        await session.commit()
        return acquired is not None
