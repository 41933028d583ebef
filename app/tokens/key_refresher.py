"""Keeps a worker's keys those of the database, while other workers and hosts change them."""

import asyncio
import logging
from collections.abc import Callable
from datetime import datetime
from time import monotonic

from app.background_jobs import pause
from app.database.engine import Database
from app.errors import UnavailableError
from app.settings import Settings
from app.tokens.jwt import Claims, Tokens, UnknownKeyError
from app.tokens.signing_keys.store import KeyStore

REFRESH_SECONDS = 1.0
# A flood of tokens under made-up keys asks the database no more often than this. Each of them waits
# for as long: a good token under a key that was made in the last moment must not be refused.
MISS_PAUSE_SECONDS = 0.1

_log = logging.getLogger("hourpass.keys")


class LiveKeys:
    def __init__(
        self,
        tokens: Tokens,
        database: Database,
        settings: Settings,
        clock: Callable[[], datetime],
        revoked_keys: Callable[[], int],
    ) -> None:
        """`revoked_keys` tells how many keys have been revoked, as far as this process knows."""
        self._tokens = tokens
        self._database = database
        self._settings = settings
        self._clock = clock
        self._revoked_keys = revoked_keys
        self._revoked_keys_read = revoked_keys()  # how many the keys at hand account for
        self._refreshing = asyncio.Lock()
        self._refreshed_at = float("-inf")  # on the monotonic clock, when the last read began

    async def read(self, token: str, now: datetime) -> Claims:
        """Tokens.read, after a second look for a key that was made in the last moment.

        Raises InvalidTokenError.
        """
        try:
            return self._tokens.read(token, now)
        except UnknownKeyError:
            await self._look_again(monotonic())
            return self._tokens.read(token, now)

    async def _look_again(self, asked_at: float) -> None:
        async with self._refreshing:
            if self._refreshed_at < asked_at:  # nobody else has looked since
                await asyncio.sleep(self._refreshed_at + MISS_PAUSE_SECONDS - monotonic())
                await self._refresh()

    async def catch_up(self) -> None:
        """Read the keys if one is known to be revoked that may still be among them.

        Raises UnavailableError if they cannot be read.
        """
        while self._revoked_keys() != self._revoked_keys_read:
            async with self._refreshing:
                if self._revoked_keys() != self._revoked_keys_read and not await self._refresh():
                    raise UnavailableError

    async def keep_fresh(self, ending: asyncio.Event) -> None:
        while not await pause(ending, REFRESH_SECONDS):
            async with self._refreshing:
                await self._refresh()

    async def _refresh(self) -> bool:
        """Returns whether the keys could be read."""
        now = self._clock()
        self._refreshed_at = monotonic()
        revoked_keys = self._revoked_keys()  # before the keys are read, which then account for them
        try:
            async with self._database.session() as session:
                store = KeyStore(session, self._settings)
                self._tokens.keyring = await store.read(now, self._tokens.keyring)
        except Exception:  # noqa: BLE001 - whatever it was must not end keep_fresh
            _log.exception("Cannot read the signing keys; going on with those known")
            return False
        self._revoked_keys_read = revoked_keys
        return True
