"""Log lines about an outage, and the pauses between attempts."""

import logging
import random

from hourpass.guard.service_client import OutageError
from hourpass.http.errors import cause_of

# The operating system's: the state of `random` belongs to the API that this runs in.
_random = random.SystemRandom()

# Pauses are random, up to these: after a restart of the service, a thousand guards reconnect.
FIRST_RETRY_SECONDS, LAST_RETRY_SECONDS = 0.5, 2.0

_log = logging.getLogger("hourpass.guard")


def spread(seconds: float) -> float:
    """A random time between 0 and `seconds`."""
    return _random.uniform(0, seconds)


class Outage:
    """Logs one line when the service becomes unreachable, one when the guard starts to refuse all
    tokens, and one when the service is back."""

    def __init__(self) -> None:
        self._longest_pause = 0.0
        self._refuses = False

    def record_failure(self, error: Exception, fresh_for: float) -> float:
        """Returns the seconds until the next attempt."""
        cause = error.cause if isinstance(error, OutageError) else cause_of(error)
        if not self._longest_pause:
            _log.warning("The Hourpass service cannot be reached: %s", cause)
        if fresh_for <= 0 and not self._refuses:
            self._refuses = True
            _log.error("Every request is refused until the Hourpass service can be reached")
        self._longest_pause = min(
            2 * self._longest_pause or FIRST_RETRY_SECONDS, LAST_RETRY_SECONDS
        )
        return spread(self._longest_pause)

    def record_success(self) -> None:
        """Does nothing if there was no outage."""
        if self._longest_pause:
            _log.warning("The Hourpass service can be reached again")
        self._longest_pause, self._refuses = 0.0, False
