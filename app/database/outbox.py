"""A table of rows that workers send somewhere, such as mail.

An operation adds a row in its transaction. Every worker of every host looks for rows that are due,
and claims each one for some time before it sends it, so that no other worker does. If it dies, the
row is due again when the claim ends. So a row may be sent twice, and none is lost.
"""

import asyncio
from datetime import datetime, timedelta
from typing import ClassVar, Generic, TypeVar

from sqlalchemy import BigInteger, Identity, Integer, update
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Mapped, mapped_column

from app.background_jobs import wait_or_stop
from app.database.engine import Database, begin_write
from app.database.failure_log import FailureLog
from app.database.fast_queries import current_time

POLL_SECONDS = 2


class Queued:
    """The columns that a table needs for this."""

    id: Mapped[int] = mapped_column(
        BigInteger().with_variant(Integer, "sqlite"), Identity(), primary_key=True
    )
    attempts: Mapped[int]
    due_at: Mapped[datetime]


Row = TypeVar("Row", bound=Queued)


class OutboxWorker(Generic[Row]):
    """Sends the rows of one table. A process starts `run`, which repeats `run_once`.

    `claim_period` is as long as a try can take.
    """

    claimed_values: ClassVar[dict[str, object]] = {}  # further columns to set with a claim

    def __init__(
        self,
        database: Database,
        table: type[Row],
        claim_period: timedelta,
        failures: FailureLog,
    ) -> None:
        self._database = database
        self._table = table
        self._claim_period = claim_period
        self.failures = failures
        self._sending: set[asyncio.Task[None]] = set()

    async def run(self, stopping: asyncio.Event) -> None:
        """The rows of a failed run are sent later."""
        while not stopping.is_set():
            try:
                while await self.run_once(stopping) and self.can_continue():
                    pass
            except Exception as error:  # noqa: BLE001 - any error is logged, and the job runs again
                self.failures.failed(error)
            else:
                self.failures.succeeded()
            await wait_or_stop(stopping, POLL_SECONDS)
        await self.finish()

    async def run_once(self, stopping: asyncio.Event) -> int:
        """Claim rows that are due, and start to send them. Returns 0 if there was nothing to do."""
        raise NotImplementedError

    async def process(self, row: Row, stopping: asyncio.Event) -> None:
        """Send a claimed row, and record what became of it."""
        raise NotImplementedError

    def can_continue(self) -> bool:
        """Whether another round makes sense at once."""
        return True

    async def finish(self) -> None:
        """Wait for the rows that are being sent."""
        if self._sending:
            await asyncio.wait(self._sending)

    def start(self, row: Row, stopping: asyncio.Event) -> asyncio.Task[None]:
        """Process the row while others are looked for."""
        task = asyncio.create_task(self.process(row, stopping))
        self._sending.add(task)
        task.add_done_callback(self._sending.discard)
        return task

    async def claim(self, session: AsyncSession, row_id: int) -> Row | None:
        """None if another worker was faster."""
        now = await current_time(session)
        await begin_write(session)
        # One UPDATE. After a second one in the same transaction, PostgreSQL would lock the row that
        # a foreign key refers to, such as that of a mail's code, and so wait for a transaction that
        # deletes the code and then its mail.
        row = await session.scalar(
            update(self._table)
            .where(self._table.id == row_id, self._table.due_at <= now)
            .values(
                attempts=self._table.attempts + 1,
                due_at=now + self._claim_period,
                **self.claimed_values,
            )
            .returning(self._table)
            .execution_options(populate_existing=True)
        )
        await session.commit()
        return row
