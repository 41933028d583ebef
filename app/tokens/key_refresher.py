"""Keeps the signing keys of a worker up to date, since other workers and hosts change them."""

import asyncio
import logging
from collections.abc import Callable
from datetime import datetime
from time import monotonic

from app.background_jobs import wait_or_stop
from app.context import RequestContext
from app.database.engine import Database
from app.database.failure_log import FailureLog
from app.errors import UnavailableError
from app.tokens.jwt import AccessTokens, Claims, UnknownKeyError
from app.tokens.revocations.cache import RevocationCache
from app.tokens.signing_keys.keys import Keyring
from app.tokens.signing_keys.store import KeyStore

REFRESH_SECONDS = 1.0
# The shortest time between two reads because of unknown keys, so that forged tokens cannot flood
# the database. Their requests wait this long too: a valid token with a new key must not be
# rejected.
MIN_REFRESH_INTERVAL_SECONDS = 0.1

_log = logging.getLogger("hourpass.keys")


class KeyRefresher:
    name = "signing_keys"  # for metrics

    def __init__(
        self,
        tokens: AccessTokens,
        database: Database,
        store: KeyStore,
        clock: Callable[[], datetime],
        revocations: RevocationCache,
    ) -> None:
        self._tokens = tokens
        self._database = database
        self._store = store
        self._clock = clock
        self._revocations = revocations
        self._revoked_keys_read = revocations.count_revoked_keys()  # at the last read of the keys
        self._refreshing = asyncio.Lock()
        self._refreshed_at = float("-inf")  # start of the last read, on the monotonic clock
        self.failures = FailureLog(_log, "Cannot load the signing keys, using the cached ones")

    async def decode(self, token: str, now: datetime) -> Claims:
        """Like AccessTokens.decode(), but reads the keys again if the token's key is unknown.

        Raises InvalidTokenError.
        """
        try:
            return self._tokens.decode(token, now)
        except UnknownKeyError:
            await self._refresh_since(monotonic())
            return self._tokens.decode(token, now)

    async def _refresh_since(self, asked_at: float) -> None:
        async with self._refreshing:
            if self._refreshed_at < asked_at:  # no other request has read them since
                await asyncio.sleep(self._refreshed_at + MIN_REFRESH_INTERVAL_SECONDS - monotonic())
                await self._refresh()

    async def catch_up(self) -> None:
        """Read the keys if one of them may have been revoked since the last read.

        Raises UnavailableError if they cannot be read.
        """
        count = self._revocations.count_revoked_keys
        while count() != self._revoked_keys_read:
            async with self._refreshing:
                if count() != self._revoked_keys_read and not await self._refresh():
                    raise UnavailableError

    async def run(self, stopping: asyncio.Event) -> None:
        while not await wait_or_stop(stopping, REFRESH_SECONDS):
            async with self._refreshing:
                await self._refresh()

    async def _refresh(self) -> bool:
        """Returns False if the keys cannot be read."""
        now = self._clock()
        self._refreshed_at = monotonic()
        # Before the read, which may then miss none of them.
        revoked_keys = self._revocations.count_revoked_keys()
        try:
            async with self._database.session() as session:
                context = RequestContext(session, now)
                stored = await self._store.read(context, self._tokens.keyring)
            keyring = self._without_revoked(stored)
        except Exception as error:  # noqa: BLE001 - no error may stop run()
            self.failures.failed(error)
            return False
        if keyring is None:  # until another key replaces the revoked one, none may sign
            self._revoked_keys_read = -1
            return False
        self._tokens.keyring = keyring
        self.failures.succeeded()
        self._revoked_keys_read = revoked_keys
        return True

    def _without_revoked(self, keyring: Keyring) -> Keyring | None:
        """After a failover, the database may have lost the revocation of a key. None if no key is
        left."""
        is_revoked = self._revocations.is_revoked
        keys = [key for key in keyring.keys if not is_revoked((f"kid:{key.kid}",))]
        if len(keys) == len(keyring.keys):
            return keyring
        return Keyring(keys) if keys else None
