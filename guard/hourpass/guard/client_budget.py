"""How many API keys that the guard has not seen before one client may have exchanged.

Anybody can compute the checksum of a key, so that each invented key costs a request to the service.
"""

from hourpass.errors import ServiceUnavailableError
from hourpass.guard.networks import IPNetwork

EXCHANGES_PER_SECOND = 50  # and as many at once
MAX_CLIENTS = 4_096  # remembered; those without an exchange for a second are as new

_INTERVAL = 1 / EXCHANGES_PER_SECOND

Client = IPNetwork | None  # None: all without an address


class ClientBudget:
    """A token bucket for each client, as the moment when it is full again (GCRA). All times are
    those of one monotonic clock. Callers hold a lock."""

    def __init__(self) -> None:
        self._full_at: dict[Client, float] = {}

    def take(self, client: Client, now: float) -> None:
        """Raises ServiceUnavailableError."""
        full_at = max(self._full_at.get(client, now), now)
        if full_at - now > 1 - _INTERVAL / 2:
            raise ServiceUnavailableError
        if client not in self._full_at and len(self._full_at) >= MAX_CLIENTS:
            self._forget_full(now)
        self._full_at[client] = full_at + _INTERVAL

    def give_back(self, client: Client) -> None:
        """The key was valid."""
        if client in self._full_at:
            self._full_at[client] -= _INTERVAL

    def _forget_full(self, now: float) -> None:
        """Raises ServiceUnavailableError if that makes no room."""
        self._full_at = {client: at for client, at in self._full_at.items() if at > now}
        if len(self._full_at) >= MAX_CLIENTS:
            raise ServiceUnavailableError
