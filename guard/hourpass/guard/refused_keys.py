"""API keys that the service refused some seconds ago."""

from threading import Lock

from hourpass.guard.invalid_tokens import RecentlyInvalid


class RefusedKeys:
    """Keeps them by their digest (key_exchange.py). Forgets all when the revocation feed moves,
    because it lists each key that is created or works again."""

    def __init__(self) -> None:
        self._refused = RecentlyInvalid()
        self._cursor: str | None = None
        self._changing = Lock()

    def contain(self, digest: bytes, cursor: str | None, now: float) -> bool:
        """`cursor` is that of the feed now, and `now` is on the monotonic clock."""
        return cursor == self._cursor and self._refused.contains(digest.hex(), now)

    def add(self, digest: bytes, asked_at: str | None, cursor: str | None, now: float) -> None:
        """`asked_at` is the cursor before the service was asked. If the feed has moved since then,
        the answer may be out of date."""
        if asked_at != cursor:
            return
        with self._changing:
            if cursor != self._cursor:
                self._refused, self._cursor = RecentlyInvalid(), cursor
            self._refused.add(digest.hex(), now)
