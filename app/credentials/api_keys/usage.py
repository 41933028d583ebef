"""Writes the day of the last use of each key: once an hour, and never during a request."""

import logging
from asyncio import Event
from collections import defaultdict
from collections.abc import Sequence
from datetime import date, datetime

from sqlalchemy import or_, select, update

from app.background_jobs import wait_or_stop
from app.credentials.api_keys.models import ApiKey
from app.database.engine import Database, begin_write
from app.database.failure_log import FailureLog

WRITE_SECONDS = 3600.0
MAX_NOTED = 100_000  # keys between two writes; the days of further keys are not written
BATCH_SIZE = 500

_log = logging.getLogger("hourpass.api_keys")


class KeyUsage:
    name = "api_key_usage"  # for metrics

    def __init__(self, database: Database) -> None:
        self._database = database
        self._noted: dict[str, date] = {}  # by the key's id
        self.failures = FailureLog(_log, "Cannot write when API keys were used")

    def note(self, key_id: str, now: datetime) -> None:
        if len(self._noted) < MAX_NOTED or key_id in self._noted:
            self._noted[key_id] = now.date()

    async def run(self, stopping: Event) -> None:
        is_stopping = False
        while not is_stopping:
            is_stopping = await wait_or_stop(stopping, WRITE_SECONDS)
            try:
                await self.write()
            except Exception as error:  # noqa: BLE001 - any error is logged, and the job runs again
                self.failures.failed(error)
            else:
                self.failures.succeeded()

    async def write(self) -> None:
        """Days that cannot be written stay noted."""
        days = defaultdict(list)
        for key_id, day in sorted(self._noted.items()):
            days[day].append(key_id)
        for day, key_ids in days.items():
            for start in range(0, len(key_ids), BATCH_SIZE):
                batch = key_ids[start : start + BATCH_SIZE]
                await self._write(day, batch)
                for key_id in batch:
                    if self._noted.get(key_id) == day:
                        del self._noted[key_id]

    async def _write(self, day: date, key_ids: Sequence[str]) -> None:
        """Several workers write the same rows. Only the first one changes them. No worker waits for
        another one, so there is no deadlock: a row that is locked is skipped until the next use of
        its key."""
        chosen = (
            select(ApiKey.id)
            .where(
                ApiKey.id.in_(key_ids),
                or_(ApiKey.last_used_on.is_(None), ApiKey.last_used_on < day),
            )
            .with_for_update(skip_locked=True)
        )
        async with self._database.session() as session:
            await begin_write(session)
            await session.execute(
                update(ApiKey).where(ApiKey.id.in_(chosen)).values(last_used_on=day),
                execution_options={"synchronize_session": False},
            )
            await session.commit()
