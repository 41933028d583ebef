"""A periodic job: rotates signing keys, and deletes keys whose last token has expired."""

from datetime import datetime

from sqlalchemy.ext.asyncio import AsyncSession

from app.context import RequestContext
from app.database.engine import Database
from app.database.job_lock import LockedJob
from app.tokens.signing_keys.store import KeyStore


class KeyRotation(LockedJob):
    def __init__(self, database: Database, keys: KeyStore) -> None:
        super().__init__("key_rotation", database, self._rotate)
        self._keys = keys

    async def _rotate(self, session: AsyncSession, now: datetime) -> None:
        context = RequestContext(session, now)
        await self._keys.rotate_if_due(context)
        await self._keys.delete_retired(context)
