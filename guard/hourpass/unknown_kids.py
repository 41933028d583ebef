"""Token headers that name a key nobody has published: yet, or ever.

A new key may sign before every worker of the service publishes it, and a client throws a token away
that is called invalid. So a `kid` is called invalid only when a look for it, put long enough after
it was met first, has been answered without it. Until then nobody can say.
"""

from threading import Lock

from hourpass.errors import InvalidTokenError, ServiceUnavailableError

# How far behind another worker a worker may be, and much more: the service promises 0.1 s.
PUBLISHED_SECONDS = 2.0
# Between looks, however many made-up kids come: the pause doubles with each look.
FIRST_PAUSE_SECONDS, LAST_PAUSE_SECONDS = 1.0, 10.0
QUIET_SECONDS = 60.0  # without a look, until the pause is the first one again
MAX_KIDS = 1_024  # met and remembered; the oldest go


class UnknownKids:
    """All times are those of one monotonic clock."""

    def __init__(self) -> None:
        self._met_at: dict[str, float] = {}  # the oldest first
        self._lock = Lock()
        self._start_afresh()

    def _start_afresh(self) -> None:
        self._met_at.clear()
        self._answered_at = self._next_look_at = float("-inf")
        self._pause = FIRST_PAUSE_SECONDS

    def start_afresh(self) -> None:
        """There are other keys now: whatever was looked for in vain is worth a look again."""
        with self._lock:
            self._start_afresh()

    def meet(self, kid: str, now: float) -> None:
        """Return if it is time to look for it.

        Raises InvalidTokenError if there is no such key, and ServiceUnavailableError if that
        cannot be said yet.
        """
        with self._lock:
            if kid not in self._met_at and len(self._met_at) >= MAX_KIDS:
                del self._met_at[next(iter(self._met_at))]
            met_at = self._met_at.setdefault(kid, now)
            if self._answered_at >= met_at + PUBLISHED_SECONDS:
                raise InvalidTokenError
            if now < self._next_look_at:
                raise ServiceUnavailableError

    def looked(self, asked_at: float, now: float, *, was_answered: bool) -> None:
        """To be called after every look, `was_answered` or not."""
        with self._lock:
            if was_answered:
                self._answered_at = max(self._answered_at, asked_at)
            if now >= self._next_look_at + QUIET_SECONDS:
                self._pause = FIRST_PAUSE_SECONDS
            self._next_look_at = now + self._pause
            self._pause = min(2 * self._pause, LAST_PAUSE_SECONDS)
