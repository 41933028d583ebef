"""Keeps the fingerprints of all live API keys in memory, so that forged keys cost no query.

Anybody can compute the checksum of a key. So each worker reads the fingerprints of live keys from
the table once, and those of new keys from the revocation feed. While the feed is up to date, the
worker refuses unknown keys, whatever their ids are. Otherwise the database decides.
"""

import logging
from array import array
from asyncio import Event
from bisect import bisect_left
from datetime import datetime
from time import monotonic

from sqlalchemy import select

from app.background_jobs import wait_or_stop
from app.credentials.api_keys.fingerprints import fingerprint
from app.credentials.api_keys.models import ApiKey
from app.database.engine import Database
from app.database.failure_log import FailureLog
from app.database.fast_queries import current_time
from app.errors import UnavailableError
from app.tokens.errors import InvalidTokenError
from app.tokens.revocations.cache import RevocationCache
from app.tokens.revocations.entries import Head

MAX_LIVE_KEYS = 5_000_000  # 43 MB; with more of them, the database decides about all keys
BATCH_SIZE = 2_000
CHECK_SECONDS = 0.1
RETRY_SECONDS = 1.0
RELOAD_SECONDS = 24 * 3600.0  # forgets the keys that have expired
# A worker on PostgreSQL reads the feed every 33 ms, so a new key may be unknown for that long. An
# unknown key waits for the next read, but not in a flood.
MAX_WAITING_PER_SECOND = 50
# Unknown keys that a caller asks to revoke. They may be suspended ones.
MAX_REVOCATIONS_PER_SECOND = 50

_BUCKETS = 1_024

_log = logging.getLogger("hourpass.api_keys")


def fingerprint_of(secret_hash: bytes) -> int:
    return int.from_bytes(fingerprint(secret_hash), "big")


class Fingerprints:
    """A set of 64-bit numbers that takes 9 bytes for each: sorted arrays, divided by the first ten
    bits so that adding one moves few others."""

    def __init__(self) -> None:
        self._buckets = [array("Q") for _ in range(_BUCKETS)]
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def __contains__(self, fingerprint: int) -> bool:
        bucket, index = self._find(fingerprint)
        return index < len(bucket) and bucket[index] == fingerprint

    def add(self, fingerprint: int) -> None:
        bucket, index = self._find(fingerprint)
        if index == len(bucket) or bucket[index] != fingerprint:
            bucket.insert(index, fingerprint)
            self._count += 1

    def discard(self, fingerprint: int) -> None:
        bucket, index = self._find(fingerprint)
        if index < len(bucket) and bucket[index] == fingerprint:
            del bucket[index]
            self._count -= 1

    def _find(self, fingerprint: int) -> tuple["array[int]", int]:
        bucket = self._buckets[fingerprint >> 54]
        return bucket, bisect_left(bucket, fingerprint)


class PerSecond:
    """Counts what happens in the current second of the monotonic clock."""

    def __init__(self) -> None:
        self._second = 0
        self._count = 0

    @property
    def count(self) -> int:
        return self._count if int(monotonic()) == self._second else 0

    def add(self) -> None:
        self._second, self._count = int(monotonic()), self.count + 1


class LiveKeys:
    name = "live_api_keys"  # for metrics

    def __init__(self, database: Database, cache: RevocationCache) -> None:
        self._database = database
        self._cache = cache
        self._fingerprints = self._loading = Fingerprints()
        # The history of the database (RevocationCache) whose keys were read last, and whether all
        # of them are known.
        self._history = -1
        self._is_complete = False
        self._loaded_at = float("-inf")
        self._waiting, self._revocations = PerSecond(), PerSecond()
        self.failures = FailureLog(_log, "Cannot load the API keys, asking the database for each")
        cache.on_key = self._add

    def __len__(self) -> int:
        return len(self._fingerprints)

    @property
    def is_loaded(self) -> bool:
        return self._is_complete and self._history == self._cache.history

    @property
    def head(self) -> Head:
        return self._cache.head

    def refuse_unknown(self, fingerprint: int) -> None:
        """Returns if the key may exist, or if it may wait for the next read of the feed.

        Raises InvalidTokenError, and UnavailableError in a flood that keeps the worker from reading
        the feed: a query for each forged key would make that worse.
        """
        is_fresh = self._cache.is_fresh()  # on SQLite, this reads
        if self._is_possible(fingerprint) or self._may_wait():
            return
        if is_fresh:
            raise InvalidTokenError
        if self._cache.may_lag:
            raise UnavailableError

    async def may_exist(self, fingerprint: int) -> bool:
        """Whether the database has to be asked. Waits for the next read of the feed if the key is
        unknown, at most a second. Raises the errors of refuse_unknown()."""
        self.refuse_unknown(fingerprint)
        if self._is_possible(fingerprint):
            return True
        self._waiting.add()
        return not await self._cache.wait_for_read() or self._is_possible(fingerprint)

    def _may_wait(self) -> bool:
        return self._cache.may_lag and self._waiting.count < MAX_WAITING_PER_SECOND

    def allow_revocation(self, fingerprint: int) -> None:
        """Returns if the database may be asked about a key that a caller asks to revoke. Suspended
        keys are unknown here, and must not work again. Raises UnavailableError in a flood."""
        if self._is_possible(fingerprint):
            return
        if self._revocations.count >= MAX_REVOCATIONS_PER_SECOND:
            raise UnavailableError
        self._revocations.add()

    def _is_possible(self, fingerprint: int) -> bool:
        return not self.is_loaded or fingerprint in self._fingerprints

    def forget(self, fingerprint: int, head: Head) -> None:
        """Forget a key that the database has refused for good. `head` is that of before the query:
        if the feed has moved since, the key may have become valid again."""
        if head == self._cache.head:
            self._fingerprints.discard(fingerprint)

    async def run(self, stopping: Event) -> None:
        while not await wait_or_stop(stopping, CHECK_SECONDS):
            is_outdated = (
                self._history != self._cache.history
                or monotonic() >= self._loaded_at + RELOAD_SECONDS
            )
            if not is_outdated or not self._cache.is_fresh():
                continue
            try:
                await self._load(stopping)
            except Exception as error:  # noqa: BLE001 - any error is logged, and the job runs again
                self.failures.failed(error)
                await wait_or_stop(stopping, RETRY_SECONDS)
            else:
                self.failures.succeeded()

    def _add(self, text: str) -> None:
        try:
            fingerprint = fingerprint_of(bytes.fromhex(text))
        except ValueError:  # of a later version
            return
        for fingerprints in {self._fingerprints, self._loading}:
            if len(fingerprints) < MAX_LIVE_KEYS:
                fingerprints.add(fingerprint)
            elif fingerprint not in fingerprints:
                self._is_complete = False

    async def _load(self, stopping: Event) -> None:
        """Keys that become valid during the load come by the feed."""
        history, now = self._cache.history, await self._now()
        self._loading = loaded = Fingerprints()
        last: str | None = ""
        while last is not None and len(loaded) < MAX_LIVE_KEYS:
            if stopping.is_set():
                return
            last = await self._load_batch(loaded, last, now)
        self._is_complete = len(loaded) < MAX_LIVE_KEYS
        if not self._is_complete:
            _log.warning("There are %d API keys or more", MAX_LIVE_KEYS)
            self._loading = loaded = Fingerprints()
        self._fingerprints, self._history = loaded, history
        self._loaded_at = monotonic()

    async def _now(self) -> datetime:
        async with self._database.session() as session:
            return await current_time(session)

    async def _load_batch(self, loaded: Fingerprints, after: str, now: datetime) -> str | None:
        """Returns the last id, or None if there are no more keys."""
        query = (
            select(ApiKey.id, ApiKey.secret_hash)
            .where(
                ApiKey.id > after,
                ApiKey.revoked_at.is_(None),
                ApiKey.suspended_at.is_(None),
                ApiKey.expires_at > now,
            )
            .order_by(ApiKey.id)
            .limit(BATCH_SIZE)
        )
        async with self._database.session() as session:
            rows = (await session.execute(query)).all()
        for _, secret_hash in rows:
            loaded.add(fingerprint_of(secret_hash))
        return rows[-1].id if len(rows) == BATCH_SIZE else None
