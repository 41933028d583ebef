"""Tokens whose `kid` is not in the key set: the key may be new, or made up.

A new key may sign before every worker of the service publishes it, and clients discard a token on
401. So a `kid` is invalid only if a key set lacks it that the guard requested long enough after it
first saw that `kid`. Until then the answer is 503.
"""

from threading import Lock

from hourpass.errors import ServiceUnavailableError
from hourpass.guard.invalid_tokens import invalid_token

# Much longer than one worker may be behind another: the service promises 0.1 s.
PUBLISHED_SECONDS = 2.0
# Between reads of the key set, however many unknown kids there are. The pause doubles each time.
FIRST_PAUSE_SECONDS, LAST_PAUSE_SECONDS = 1.0, 10.0
QUIET_SECONDS = 60.0  # without a read after a pause, until the pauses start again with the first
MAX_KIDS = 1_024  # remembered; the oldest are dropped


class UnknownKids:
    """All times are those of one monotonic clock."""

    def __init__(self) -> None:
        self._met_at: dict[str, float] = {}  # the oldest first
        self._lock = Lock()
        self._reset()

    def _reset(self) -> None:
        self._met_at.clear()
        self._answered_at = self._next_look_at = float("-inf")
        self._pause = FIRST_PAUSE_SECONDS

    def reset(self) -> None:
        """There is a new key set, so that each unknown `kid` may be a new key again."""
        with self._lock:
            self._reset()

    def check(self, kid: str, now: float) -> None:
        """Return if it is time to read the key set for it.

        Raises InvalidTokenError if there is no such key, and ServiceUnavailableError if there
        may be one.
        """
        with self._lock:
            if kid not in self._met_at and len(self._met_at) >= MAX_KIDS:
                del self._met_at[next(iter(self._met_at))]
            met_at = self._met_at.setdefault(kid, now)
            if self._answered_at >= met_at + PUBLISHED_SECONDS:
                raise invalid_token("its key is unknown")
            if now < self._next_look_at:
                raise ServiceUnavailableError

    def record_read(self, asked_at: float, now: float, *, was_answered: bool) -> None:
        """Call this after every read of the key set, whether it `was_answered` or not."""
        with self._lock:
            if was_answered:
                self._answered_at = max(self._answered_at, asked_at)
            if now >= self._next_look_at + QUIET_SECONDS:
                self._pause = FIRST_PAUSE_SECONDS
            self._next_look_at = now + self._pause
            self._pause = min(2 * self._pause, LAST_PAUSE_SECONDS)
