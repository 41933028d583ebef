"""How long the next request may ask the service to wait for revocations."""

from hourpass.guard.service_client import HEARTBEAT_SECONDS

SHORT_WAITS = 20  # of HEARTBEAT_SECONDS, after heartbeats were missing and before the next try
# A single 503 may come from a service that is busy or that restarts its database. After so many in
# a row, the service has too many listeners: the guard polls, and then asks for a wait again.
REFUSED_WAITS = 3
PLAIN_POLLS = 30


class Waits:
    def __init__(self) -> None:
        self._short_waits_left = 0
        self.reset()

    def reset(self) -> None:
        """After an outage. A proxy that delays heartbeats is still there."""
        self._refused = self._plain_polls_left = 0

    def next_wait(self, longest: int) -> int:
        """The seconds that the service may wait. 0 means a plain request."""
        if self._plain_polls_left:
            return 0
        return min(HEARTBEAT_SECONDS, longest) if self._short_waits_left else longest

    def answered(self, wait: int) -> None:
        if wait:
            self._refused = 0
        self._plain_polls_left = max(self._plain_polls_left - 1, 0)
        self._short_waits_left = max(self._short_waits_left - 1, 0)

    def refused(self) -> None:
        """The service answered 503 to a request with a wait."""
        self._refused += 1
        self._plain_polls_left = PLAIN_POLLS if self._refused >= REFUSED_WAITS else 1

    def heartbeat_missing(self) -> None:
        self._short_waits_left = SHORT_WAITS
