"""Invalid tokens: the reason for the log, and those that the service refused a moment ago."""

import logging
from hashlib import sha256
from threading import Lock

from hourpass.errors import InvalidTokenError, MissingTokenError

# Only for a service that signs with a shared secret: what it refused is not asked again meanwhile.
REMEMBERED_SECONDS = 5.0
MAX_REMEMBERED = 4_096

_log = logging.getLogger("hourpass.guard")


def invalid_token(reason: str) -> InvalidTokenError:
    """The error to raise. The reason goes to the log at DEBUG, and never to the client: it would
    help an attacker."""
    _log.debug("Token refused: %s", reason)
    return InvalidTokenError()


def missing_token(reason: str) -> MissingTokenError:
    """Like invalid_token()."""
    _log.debug("No token: %s", reason)
    return MissingTokenError()


class RecentlyInvalid:
    """Tokens by their hash, so that long ones need no memory. Times are of a monotonic clock."""

    def __init__(self) -> None:
        self._until: dict[bytes, float] = {}  # the oldest first
        self._changing = Lock()

    def contains(self, token: str, now: float) -> bool:
        return self._until.get(_hash(token), now) > now

    def add(self, token: str, now: float) -> None:
        key = _hash(token)
        with self._changing:
            if key not in self._until and len(self._until) >= MAX_REMEMBERED:
                del self._until[next(iter(self._until))]
            self._until[key] = now + REMEMBERED_SECONDS


def _hash(token: str) -> bytes:
    return sha256(token.encode()).digest()
