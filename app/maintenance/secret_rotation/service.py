"""Finds out how far a rotation of SECRET_KEY is."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import IntEnum

from sqlalchemy import MetaData, select
from sqlalchemy.ext.asyncio import AsyncSession

from app.maintenance.secret_rotation.encrypted_rows import WHOLE_TEXT, SecretCount, count_secrets
from app.maintenance.secret_rotation.heartbeat import Worker, list_workers
from app.maintenance.secret_rotation.models import UsedKey
from app.security.encryption import fingerprints
from app.settings import Settings

# For a value that was in use before this was recorded.
BEFORE_RECORDS = datetime(1970, 1, 1, tzinfo=UTC)
_NOT_YET = datetime.max.replace(tzinfo=UTC)
_UNRECORDED = _NOT_YET - timedelta(days=1)  # commands have used it, but no worker yet


class Step(IntEnum):
    """The step that comes next."""

    ADD = 1
    MAKE_FIRST = 2
    ENCRYPT = 3
    REMOVE = 4


@dataclass(frozen=True, slots=True)
class Rotation:
    """`values` are the fingerprints of SECRET_KEY in this process, and `workers` those that were
    seen in the last minute. `used_since` has the values that have been the first ones."""

    values: tuple[str, ...]
    workers: tuple[Worker, ...]
    secrets: tuple[SecretCount, ...]
    used_since: Mapping[str, datetime]

    @property
    def newest(self) -> str:
        """The value that has been the first one for the shortest time, or not yet."""
        if any(count.by_value[WHOLE_TEXT] for count in self.secrets):
            return self.values[0]
        of_workers = [value for worker in self.workers for value in worker.fingerprints]
        return max((*self.values, *of_workers), key=self._since)

    @property
    def lacking(self) -> list[Worker]:
        """Workers without the newest value."""
        return [worker for worker in self.workers if self.newest not in worker.fingerprints]

    @property
    def behind(self) -> list[Worker]:
        """Workers that have the newest value, but encrypt with another one."""
        return [
            worker
            for worker in self.workers
            if worker not in self.lacking and worker.fingerprints[0] != self.newest
        ]

    @property
    def with_others(self) -> list[Worker]:
        """Workers that have other values than the newest one."""
        return [worker for worker in self.workers if set(worker.fingerprints) - {self.newest}]

    @property
    def undecryptable(self) -> list[SecretCount]:
        return [count for count in self.secrets if count.undecryptable]

    @property
    def to_encrypt(self) -> int:
        """The number of secrets that are not encrypted with the newest value."""
        return sum(
            count.plain + count.by_value.total() - count.by_value[self.newest]
            for count in self.secrets
        )

    @property
    def step(self) -> Step | None:
        """None if no rotation is under way."""
        if self.lacking or self.newest not in self.values:
            return Step.ADD
        if self.values[0] != self.newest or self.behind:
            return Step.MAKE_FIRST
        if self.to_encrypt:
            return Step.ENCRYPT
        if len(self.values) > 1 or self.with_others:
            return Step.REMOVE
        return None

    def _since(self, value: str) -> datetime:
        if since := self.used_since.get(value):
            return since
        if not any(count.by_value[value] for count in self.secrets):
            return _NOT_YET
        return _UNRECORDED if value == self.values[0] else BEFORE_RECORDS


async def read_rotation(session: AsyncSession, settings: Settings, metadata: MetaData) -> Rotation:
    """Reads all secrets. `metadata` is that of app/tables.py."""
    used = await session.execute(select(UsedKey.fingerprint, UsedKey.used_since))
    return Rotation(
        values=fingerprints(settings),
        workers=tuple(await list_workers(session)),
        secrets=tuple(await count_secrets(session, settings, metadata)),
        used_since={row.fingerprint: row.used_since for row in used},
    )
