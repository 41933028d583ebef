"""What a guard verifies tokens by: keys, revocations, tokens verified before, and until when it may
use them.
"""

from threading import Lock

from hourpass.errors import ServiceUnavailableError
from hourpass.guard.invalid_tokens import RecentlyInvalid, invalid_token
from hourpass.guard.service_client import FeedPage, OutageError
from hourpass.guard.token_verifier import TokenVerifier, Verified

MAX_REMEMBERED = 16_384  # tokens, of 4 KiB at most and a sixth of that as a rule
MAX_REVOCATIONS = 1_000_000  # 140 MiB; 40,000 an hour, with entries that stay for 25 hours
CLOCK_JUMP_SECONDS = 60.0  # by which wall clock and monotonic clock may part


class TooManyRevocationsError(OutageError):
    """Forgetting one of them would make a revoked token valid again."""


class Revocations:
    """All revocations that the guard has received. One thread writes them, all threads read them.

    Each is kept for its time, even if the feed lacks it later: a service that was restored from a
    backup, or replaced by its standby, may know fewer than before. The time is measured on the
    monotonic clock, so that no change of the wall clock ends it.
    """

    def __init__(self) -> None:
        self.cursor: str | None = None
        self.fresh_until = float("-inf")  # on the monotonic clock
        self._forget_at: dict[str, float] = {}  # by value, on the monotonic clock; the oldest first
        self.contains_none = self._forget_at.keys().isdisjoint

    def add(self, page: FeedPage, monotonic_now: float) -> None:
        """Raises TooManyRevocationsError."""
        for value, seconds in page.revoked.items():
            # Updated in place: if it were removed and added again, a check could miss it.
            forget_at = max(monotonic_now + seconds, self._forget_at.get(value, 0.0))
            if len(self._forget_at) >= MAX_REVOCATIONS and value not in self._forget_at:
                self._forget_old(monotonic_now)
                if len(self._forget_at) >= MAX_REVOCATIONS:
                    raise TooManyRevocationsError("more revocations than are kept")
            self._forget_at[value] = forget_at
        self._forget_old(monotonic_now)
        self.cursor = page.cursor

    def _forget_old(self, monotonic_now: float) -> None:
        while self._forget_at:
            value, forget_at = next(iter(self._forget_at.items()))
            if forget_at > monotonic_now:
                return
            del self._forget_at[value]


class VerificationState:
    """The valid tokens under one set of keys. A new set starts without tokens, so that no token
    that was valid under the old keys stays valid, and keeps the revocations.

    `wall_ahead` is the difference between wall clock and monotonic clock in seconds.
    """

    def __init__(self, tokens: TokenVerifier, revocations: Revocations, wall_ahead: float) -> None:
        self.tokens = tokens
        self.revocations = revocations
        self._wall_ahead = wall_ahead
        self._remembered: dict[str, Verified] = {}
        self.recently_invalid = RecentlyInvalid()
        self._changing = Lock()

    def get(self, token: str, now: float, monotonic_now: float) -> Verified | None:
        """The claims of a token that was verified before, or None.

        Raises InvalidTokenError if the token has expired or was revoked, and
        ServiceUnavailableError if the guard has been without an answer for too long.
        """
        if monotonic_now >= self.revocations.fresh_until:
            raise ServiceUnavailableError
        if abs(now - monotonic_now - self._wall_ahead) > CLOCK_JUMP_SECONDS:
            self._reset(now - monotonic_now)
        verified = self._remembered.get(token)
        if verified is None:
            return None
        is_expired = verified.expires_at <= now
        if is_expired or not self.revocations.contains_none(verified.revocable):
            with self._changing:  # remember() may be about to drop the same one
                self._remembered.pop(token, None)
            raise invalid_token("expired" if is_expired else "revoked")
        return verified

    def remember(self, token: str, verified: Verified) -> Verified:
        """Remember a valid token. Forged tokens do not get here, so they evict nothing.

        Raises InvalidTokenError if it has been revoked.
        """
        if not self.revocations.contains_none(verified.revocable):
            raise invalid_token("revoked")
        with self._changing:
            if len(self._remembered) >= MAX_REMEMBERED:
                self._remembered.pop(next(iter(self._remembered)))
            self._remembered[token] = verified
        return verified

    def _reset(self, wall_ahead: float) -> None:
        """Forget all tokens, because the wall clock was set. They are verified again, with HS256
        by the service."""
        with self._changing:
            self._remembered.clear()
            self._wall_ahead = wall_ahead
