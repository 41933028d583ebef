"""What a guard knows: the keys, what is revoked, tokens that hold, and until when to believe it."""

from threading import Lock

from hourpass.errors import InvalidTokenError, ServiceUnavailableError
from hourpass.service import Page
from hourpass.tokens import Tokens, User, Verified

REMEMBERED = 16_384  # tokens, of 4 KiB at most and a sixth of that as a rule


class Revocations:
    """The feed as far as it has been read. Written by one thread, read by all."""

    def __init__(self) -> None:
        self.cursor: str | None = None
        self.believed_until = float("-inf")  # on the monotonic clock
        self._forget_at: dict[str, float] = {}  # by value; the oldest first
        self.include_none_of = self._forget_at.keys().isdisjoint

    def learn(self, page: Page, now: float) -> None:
        # Never taken out to be put in again: in between a check could miss it.
        self._forget_at.update(page.revoked)
        while self._forget_at and (oldest := next(iter(self._forget_at.items())))[1] <= now:
            del self._forget_at[oldest[0]]
        self.cursor = page.cursor


class Known:
    """What is known under one set of keys of one feed. Another set, or feed, begins with an empty
    memory of tokens, so that nothing that the old one vouched for can get into it."""

    def __init__(self, tokens: Tokens, revocations: Revocations) -> None:
        self.tokens = tokens
        self.revocations = revocations
        self._remembered: dict[str, Verified] = {}
        self._adding = Lock()

    def recall(self, token: str, now: float, monotonic_now: float) -> User | None:
        """Whose token it is, if it has been remembered and still holds.

        Raises InvalidTokenError, and ServiceUnavailableError if the time has passed for which
        what is known is believed.
        """
        if monotonic_now >= self.revocations.believed_until:
            raise ServiceUnavailableError
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
