"""A periodic job of each worker: records the fingerprints of its values of SECRET_KEY.

All times are of the database's clock, since hosts compare them.
"""

import asyncio
import logging
import os
import secrets
import socket
from contextlib import suppress
from datetime import datetime, timedelta
from typing import NamedTuple

from sqlalchemy import delete, select
from sqlalchemy.ext.asyncio import AsyncSession

from app.background_jobs import wait_or_stop
from app.database.engine import Database, begin_write
from app.database.failure_log import FailureLog
from app.database.fast_queries import current_time
from app.database.upserts import upsert
from app.maintenance.secret_rotation.models import KeyHolder, UsedKey
from app.security.encryption import fingerprints
from app.settings import Settings

BEAT_SECONDS = 20
ALIVE_PERIOD = timedelta(minutes=1)
KEPT_FOR = timedelta(hours=1)
MAX_USED_KEYS = 100

_WHOLE_ROWS = {"synchronize_session": False}

_log = logging.getLogger("hourpass.jobs")


class Worker(NamedTuple):
    """`fingerprints` are in the order of SECRET_KEY."""

    name: str
    fingerprints: tuple[str, ...]
    seen_ago: timedelta


class Heartbeat:
    def __init__(self, database: Database, settings: Settings, name: str | None = None) -> None:
        """`name` is for tests: several apps are one process there."""
        self._database = database
        self._id = secrets.token_hex(8)
        self._name = name or f"{socket.gethostname()[:64]}:{os.getpid()}"
        self._fingerprints = fingerprints(settings)
        self._is_recorded = False
        self._failures = FailureLog(_log, "Cannot record which values of SECRET_KEY are in use")

    async def run(self, stopping: asyncio.Event) -> None:
        while True:
            try:
                await self.beat()
            except Exception as error:  # noqa: BLE001 - any error is logged, and the job runs again
                self._is_recorded = False
                self._failures.failed(error)
            else:
                self._is_recorded = True
                self._failures.succeeded()
            if await wait_or_stop(stopping, BEAT_SECONDS):
                break
        if self._is_recorded:  # otherwise the end would wait for a database that is away
            with suppress(Exception):
                await self.forget()

    async def beat(self) -> None:
        """Record this worker, and delete those that have not been seen for KEPT_FOR."""
        async with self._database.session() as session:
            now = await current_time(session)
            await begin_write(session)
            values = {"fingerprints": ",".join(self._fingerprints), "last_seen_at": now}
            new = {"id": self._id, "name": self._name, "first_seen_at": now}
            statement = upsert(session, KeyHolder).values(**new, **values)
            await session.execute(
                statement.on_conflict_do_update(index_elements=[KeyHolder.id], set_=values)
            )
            if self._fingerprints:
                await record_use(session, self._fingerprints[0], now)
            # Without waiting for those that another worker deletes.
            is_old = KeyHolder.last_seen_at <= now - KEPT_FOR
            old = select(KeyHolder.id).where(is_old).with_for_update(skip_locked=True)
            await session.execute(
                delete(KeyHolder).where(KeyHolder.id.in_(old)), execution_options=_WHOLE_ROWS
            )
            await session.commit()

    async def forget(self) -> None:
        """Delete the record of this worker, because it stops."""
        async with self._database.session() as session:
            await begin_write(session)
            this = delete(KeyHolder).where(KeyHolder.id == self._id)
            await session.execute(this, execution_options=_WHOLE_ROWS)
            await session.commit()


async def record_use(session: AsyncSession, fingerprint: str, since: datetime) -> None:
    """Record since when a value encrypts, unless it is known. Part of the caller's transaction."""
    statement = upsert(session, UsedKey)
    statement = statement.values(fingerprint=fingerprint, used_since=since)
    statement = statement.on_conflict_do_nothing(index_elements=[UsedKey.fingerprint])
    if await session.scalar(statement.returning(UsedKey.fingerprint)):
        newest = select(UsedKey.fingerprint).order_by(UsedKey.used_since.desc())
        surplus = UsedKey.fingerprint.not_in(newest.limit(MAX_USED_KEYS))
        await session.execute(delete(UsedKey).where(surplus), execution_options=_WHOLE_ROWS)


async def list_workers(session: AsyncSession) -> list[Worker]:
    """The workers that have been seen within ALIVE_PERIOD, by name."""
    now = await current_time(session)
    columns = select(KeyHolder.name, KeyHolder.fingerprints, KeyHolder.last_seen_at)
    is_alive = KeyHolder.last_seen_at > now - ALIVE_PERIOD
    by_name = columns.where(is_alive).order_by(KeyHolder.name, KeyHolder.id)
    return [
        Worker(name, tuple(filter(None, held.split(","))), now - seen_at)
        for name, held, seen_at in await session.execute(by_name)
    ]
