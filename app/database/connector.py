"""Opens database connections, and marks open ones that must not be used again."""

from abc import ABC, abstractmethod
from time import monotonic
from typing import Any

# Times are short enough for a 503 within seconds. The database gives up first, because it says why
# and its connection can still be used. Only a silent connection reaches STATEMENT_SECONDS.
CONNECT_SECONDS = 3.0
POOL_SECONDS = 3.0  # waiting for another request to return a connection to the pool
LOCK_SECONDS = 3.0
# SQLite's writers do not queue: each tries again from time to time, and may have no luck for long.
SQLITE_LOCK_SECONDS = 10.0
MIGRATION_LOCK_SECONDS = 600.0
SERVER_STATEMENT_SECONDS = 4.0
STATEMENT_SECONDS = 5.0
CANCEL_SECONDS = 0.5  # for the server to end a statement that was given up
# A transaction whose client has gone keeps its locks until then. Longer than any pause in ours:
# some read, then wait for a password's hash.
IDLE_TRANSACTION_SECONDS = 30.0


class UnreachableError(OSError):
    """Another request is trying to connect, and its last attempt failed."""


class OlderTimelineError(OSError):
    """The server is a former primary: a standby has taken over its clients since."""


class Connector(ABC):
    """`connect` is SQLAlchemy's `async_creator`."""

    def __init__(self) -> None:
        # Connections that were opened before this are no longer used. Callers compare the times,
        # because each login does that.
        self.discarded_at = float("-inf")
        # The newest one that was seen (timelines.py). None on SQLite, and if the server does not
        # tell.
        self.timeline: str | None = None
        self._connecting = 0
        self._failure: OSError | None = None  # of the last attempt

    async def connect(self) -> Any:
        """A connection of the driver, with `opened_at` on the monotonic clock.

        While the database cannot be reached, one request at a time tries to connect. The others
        fail at once instead of waiting in turn for the same timeout.
        """
        if self._failure and self._connecting:
            raise UnreachableError from self._failure
        self._connecting += 1
        opened_at = monotonic()
        try:
            driver = await self._open()
        except OSError as error:
            self._failure = error
            raise
        finally:
            self._connecting -= 1
        self._failure = None
        driver.opened_at = opened_at
        return driver

    def discard_all(self) -> None:
        """Use no connection again that is open now. Called when one of them was silent, closed or
        read-only: after a failover or behind a firewall, the others are as well."""
        self.discarded_at = monotonic()

    @abstractmethod
    async def _open(self) -> Any: ...
