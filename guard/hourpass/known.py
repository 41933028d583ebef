"""What a guard knows: the keys, what is revoked, tokens that hold, and until when to believe it."""

from threading import Lock

from hourpass.errors import InvalidTokenError, ServiceUnavailableError
from hourpass.service import OutageError, Page
from hourpass.tokens import Tokens, User, Verified

REMEMBERED = 16_384  # tokens, of 4 KiB at most and a sixth of that as a rule
MAX_REVOCATIONS = 1_000_000  # 140 MiB; 40,000 an hour, with entries that stay for 25 hours
CLOCK_JUMP_SECONDS = 60.0  # by which wall clock and monotonic clock may part


class TooManyRevocationsError(OutageError):
    """To let any of them go would let a revoked token in."""


class Revocations:
    """What the feed has said, also before it was another one. Written by one thread, read by all.

    A revocation once heard is kept for its time, whatever the feed says later: a service that was
    restored from a backup, or replaced by its standby, may know less than it did. The time is
    that of the monotonic clock, so that no change of the wall clock ends it.
    """

    def __init__(self) -> None:
        self.cursor: str | None = None
        self.believed_until = float("-inf")  # on the monotonic clock
        self._forget_at: dict[str, float] = {}  # by value, on the monotonic clock; the oldest first
        self.include_none_of = self._forget_at.keys().isdisjoint

    def learn(self, page: Page, monotonic_now: float) -> None:
        """Raises TooManyRevocationsError."""
        for value, seconds in page.revoked.items():
            # Never taken out to be put in again: in between a check could miss it.
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


class Known:
    """What is known under one set of keys. Another set begins with an empty memory of tokens, so
    that nothing that the old one vouched for can get into it, and goes on with the revocations.

    `wall_ahead` is by how many seconds the wall clock is ahead of the monotonic one.
    """

    def __init__(self, tokens: Tokens, revocations: Revocations, wall_ahead: float) -> None:
        self.tokens = tokens
        self.revocations = revocations
        self._wall_ahead = wall_ahead
        self._remembered: dict[str, Verified] = {}
        self._adding = Lock()

    def recall(self, token: str, now: float, monotonic_now: float) -> User | None:
        """Whose token it is, if it has been remembered and still holds.

        Raises InvalidTokenError, and ServiceUnavailableError if the time has passed for which
        what is known is believed.
        """
        if monotonic_now >= self.revocations.believed_until:
            raise ServiceUnavailableError
        if abs(now - monotonic_now - self._wall_ahead) > CLOCK_JUMP_SECONDS:
            self._start_afresh(now - monotonic_now)
        verified = self._remembered.get(token)
        if verified is None:
            return None
        if verified.expires_at <= now or not self.revocations.include_none_of(verified.revocable):
            self._remembered.pop(token, None)
            raise InvalidTokenError
        return verified.user

    def admit(self, token: str, verified: Verified) -> User:
        """Remember a token that holds; forged ones never get here, and so evict nothing.

        Raises InvalidTokenError if it has been revoked.
        """
        if not self.revocations.include_none_of(verified.revocable):
            raise InvalidTokenError
        with self._adding:
            if len(self._remembered) >= REMEMBERED:
                self._remembered.pop(next(iter(self._remembered)))
            self._remembered[token] = verified
        return verified.user

    def _start_afresh(self, wall_ahead: float) -> None:
        """The wall clock was set: each token is verified again, where the service has no public
        key by the service, which knows the time."""
        with self._adding:
            self._remembered.clear()
            self._wall_ahead = wall_ahead
