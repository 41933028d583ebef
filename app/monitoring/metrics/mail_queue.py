"""A background job that counts the mail in the outbox, since only the database knows it."""

import logging
from asyncio import Event

from sqlalchemy import func, select

from app.background_jobs import wait_or_stop
from app.database.engine import Database
from app.database.failure_log import FailureLog
from app.database.fast_queries import current_time
from app.mail.models import OutgoingMail

CHECK_SECONDS = 15.0
MAX_COUNTED = 20_000  # twice as many as may wait, except those of administrators

_log = logging.getLogger("hourpass.mail")


class MailQueue:
    def __init__(self, database: Database) -> None:
        self._database = database
        self._failures = FailureLog(_log, "Cannot count the waiting mail")
        self.waiting: int | None = None  # None if it is not known
        self.oldest_seconds = 0.0

    async def run(self, stopping: Event) -> None:
        while True:
            try:
                await self._count()
            except Exception as error:  # noqa: BLE001 - any error is logged, and the job runs again
                self.waiting = None
                self._failures.failed(error)
            else:
                self._failures.succeeded()
            if await wait_or_stop(stopping, CHECK_SECONDS):
                return

    async def _count(self) -> None:
        rows = select(OutgoingMail.created_at).order_by(OutgoingMail.created_at).limit(MAX_COUNTED)
        found = rows.subquery()
        query = select(func.count(), func.min(found.c.created_at)).select_from(found)
        async with self._database.session() as session:
            now = await current_time(session)
            self.waiting, oldest = (await session.execute(query)).one()
        self.oldest_seconds = max(0.0, (now - oldest).total_seconds()) if oldest else 0.0
