"""Whether a token holds: asked on every prediction, so its cost is the product's cost.

There are two ways to the one answer. The quick one asks no database, once that has confirmed the
token's user. It is safe because a signature, once good, stays good; because every operation that
ends a token is in the cache of revocations (revocations/cache.py); and because it is not taken at
all while revocations may be missing. What it remembers ends with the token, with any change of the
keys, when the clock is set or the database turns out to be another one, and when REMEMBERED others
have come since. Only what one of our keys has signed is remembered, so that forged tokens
leave nothing behind.
"""

from datetime import datetime
from time import monotonic
from typing import NamedTuple, TypeVar

from app.tokens.errors import InvalidTokenError
from app.tokens.jwt import Claims, Tokens, UnknownKeyError
from app.tokens.key_refresher import LiveKeys
from app.tokens.revocations.cache import RevocationCache
from app.users.service import Identity, Users

REMEMBERED = 16_384  # tokens, of MAX_TOKEN_BYTES at most and a sixth of that as a rule; and users

# How far the clock may drift, in all, before it counts as set.
CLOCK_TOLERANCE_SECONDS = 60.0

Key = TypeVar("Key")
Value = TypeVar("Value")


class Verified(NamedTuple):
    claims: Claims
    holder: Identity
    account: tuple[int, int]  # the user's id and epoch
    revocable: tuple[str, ...]

    @classmethod
    def of(cls, claims: Claims) -> "Verified":
        """Raises InvalidTokenError if the token's subject is no user."""
        holder = Identity.of(claims)
        return cls(claims, holder, (holder.id, claims.epoch), tuple(claims.revocable()))


class Memory:
    """What one worker can say of tokens at once."""

    def __init__(self, tokens: Tokens, revocations: RevocationCache) -> None:
        self._tokens = tokens
        self._revocations = revocations
        self._history = revocations.history
        self._keyring = tokens.keyring
        self._clock_offset = float("nan")  # of the wall clock from the monotonic one
        self._remembered: dict[str, Verified] = {}
        # Of whom the database has said that they exist, are enabled and in this epoch.
        self._confirmed: dict[tuple[int, int], None] = {}

    def verify(self, token: str, now: datetime) -> Verified | None:
        """Whom the token stands for, or None if only the database can tell.

        Raises InvalidTokenError.
        """
        if not self._revocations.is_fresh():
            return None
        seconds = now.timestamp()
        if (
            self._revocations.history != self._history
            or not abs(seconds - monotonic() - self._clock_offset) <= CLOCK_TOLERANCE_SECONDS
        ):
            self._start_over(seconds)
        verified = self.read(token, now)
        if verified is None:
            return None
        if self._revocations.is_revoked(verified.revocable):
            raise InvalidTokenError
        return verified if verified.account in self._confirmed else None

    def read(self, token: str, now: datetime) -> Verified | None:
        """What the token says, whether it still holds or not; None if its key is not known here.

        Raises InvalidTokenError.
        """
        if self._keyring is not self._tokens.keyring:
            self._keyring = self._tokens.keyring
            self._remembered.clear()
        verified = self._remembered.get(token)
        if verified is None:
            try:
                verified = Verified.of(self._tokens.read(token, now))
            except UnknownKeyError:
                return None
            _put(self._remembered, token, verified)
        elif verified.claims.expires_at <= now.timestamp():
            del self._remembered[token]
            raise InvalidTokenError
        return verified

    def _start_over(self, seconds: float) -> None:
        """Let the database confirm every user again. A clock that was set back makes tokens valid
        again whose revocation may have been forgotten since."""
        self._history = self._revocations.history
        self._clock_offset = seconds - monotonic()
        self._remembered.clear()
        self._confirmed.clear()

    def is_revoked(self, verified: Verified) -> bool:
        """As far as is known. The database may have lost it since (revocations/cache.py)."""
        return self._revocations.is_revoked(verified.revocable)

    @property
    def history(self) -> int:
        """Of the database; see RevocationCache."""
        return self._revocations.history

    def confirm(self, verified: Verified, history: int) -> None:
        """The database, in that history, has confirmed that the token is valid."""
        if history == self._history:
            _put(self._confirmed, verified.account, None)


class Verification:
    def __init__(self, memory: Memory, keys: LiveKeys, users: Users) -> None:
        self._memory = memory
        self._keys = keys
        self._users = users

    async def verify(self, token: str, now: datetime) -> Verified:
        """Whom the token stands for. Raises InvalidTokenError."""
        if verified := self._memory.verify(token, now):
            return verified
        verified = self._memory.read(token, now)
        if verified is None:
            verified = Verified.of(await self._keys.read(token, now))
        if self._memory.is_revoked(verified):
            raise InvalidTokenError
        history = self._memory.history
        await self._users.confirm(verified.claims)
        self._memory.confirm(verified, history)
        return verified


def _put(memory: dict[Key, Value], key: Key, value: Value) -> None:
    """Add an entry, in place of the oldest one if there are too many."""
    if len(memory) >= REMEMBERED:
        del memory[next(iter(memory))]
    memory[key] = value
