"""What the log says of an outage, and when to try again."""

import logging
import random

from hourpass.service import OutageError

# Up to so long, at random: a service that restarts has a thousand guards, who all lost it at once.
FIRST_RETRY_SECONDS, LAST_RETRY_SECONDS = 0.5, 2.0

_log = logging.getLogger("hourpass.guard")


def spread(seconds: float) -> float:
    """A random time up to so long."""
    return random.uniform(0, seconds)  # noqa: S311 - to spread load, not to hide


class Outage:
    """Says once that the service is away, once that nobody is let in, and once that it is back."""

    def __init__(self) -> None:
        self._longest_pause = 0.0
        self._refuses = False

    def goes_on(self, error: Exception, believed_for: float) -> float:
        """Returns the seconds until the next attempt."""
        cause = error.cause if isinstance(error, OutageError) else type(error).__name__
        if not self._longest_pause:
            _log.warning("The Hourpass service cannot be reached: %s", cause)
        if believed_for <= 0 and not self._refuses:
            self._refuses = True
            _log.error("Every request is refused until the Hourpass service can be reached")
        self._longest_pause = min(
            2 * self._longest_pause or FIRST_RETRY_SECONDS, LAST_RETRY_SECONDS
        )
        return spread(self._longest_pause)

    def ends(self) -> None:
        """Does nothing if there was none."""
        if self._longest_pause:
            _log.warning("The Hourpass service can be reached again")
        self._longest_pause, self._refuses = 0.0, False
