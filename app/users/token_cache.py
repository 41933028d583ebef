"""Checks access tokens, from memory if possible.

An API asks at every request, so this is the fast path of the service. It needs no database, once
the database has confirmed the token's user. That is safe for three reasons: a valid signature stays
valid; every operation that revokes a token is in the revocation cache; and nothing is answered from
memory while that cache may be incomplete. An entry lasts until its token expires, the keys change,
the clock is set, the database turns out to be another one, or MAX_CACHED newer ones have come. Only
tokens that one of our keys has signed are cached, so forged tokens cost no memory.
"""

from datetime import datetime
from time import monotonic
from typing import NamedTuple, TypeVar

from app.context import RequestContext
from app.tokens.errors import InvalidTokenError
from app.tokens.jwt import AccessTokens, Claims, UnknownKeyError
from app.tokens.key_refresher import KeyRefresher
from app.tokens.revocations.cache import RevocationCache
from app.users.authenticated_user import AuthenticatedUser
from app.users.service import Users

MAX_CACHED = 16_384  # tokens, each MAX_TOKEN_BYTES at most and usually a sixth of it; and users

# How far the clock may drift, in all, before it counts as set.
CLOCK_TOLERANCE_SECONDS = 60.0

Key = TypeVar("Key")
Value = TypeVar("Value")


class VerifiedToken(NamedTuple):
    claims: Claims
    user: AuthenticatedUser
    user_version: tuple[int, int]  # the user's id and token version
    revocation_keys: tuple[str, ...]

    @classmethod
    def of(cls, claims: Claims) -> "VerifiedToken":
        """Raises InvalidTokenError if the token's subject is not a user."""
        user = AuthenticatedUser.of(claims)
        return cls(claims, user, (user.id, claims.token_version), tuple(claims.revocation_keys()))


class TokenCache:
    """The tokens that one worker has verified."""

    def __init__(self, tokens: AccessTokens, revocations: RevocationCache) -> None:
        self._tokens = tokens
        self._revocations = revocations
        self._history = revocations.history
        self._keyring = tokens.keyring
        self._clock_offset = float("nan")  # of the wall clock from the monotonic clock
        self._verified: dict[str, VerifiedToken] = {}
        # Users of whom the database has said that they exist, are enabled and have this version.
        self._confirmed: dict[tuple[int, int], None] = {}

    def check(self, token: str, now: datetime) -> VerifiedToken | None:
        """The token if it is valid, or None if only the database can tell.

        Raises InvalidTokenError.
        """
        if not self._revocations.is_fresh():
            return None
        seconds = now.timestamp()
        if (
            self._revocations.history != self._history
            or not abs(seconds - monotonic() - self._clock_offset) <= CLOCK_TOLERANCE_SECONDS
        ):
            self._reset(seconds)
        verified = self.verify(token, now)
        if verified is None:
            return None
        if self._revocations.is_revoked(verified.revocation_keys):
            raise InvalidTokenError
        return verified if verified.user_version in self._confirmed else None

    def verify(self, token: str, now: datetime) -> VerifiedToken | None:
        """Check the signature and the claims only. Returns None if the key is not known here.

        Raises InvalidTokenError.
        """
        if self._keyring is not self._tokens.keyring:
            self._keyring = self._tokens.keyring
            self._verified.clear()
        verified = self._verified.get(token)
        if verified is None:
            try:
                verified = VerifiedToken.of(self._tokens.decode(token, now))
            except UnknownKeyError:
                return None
            _put(self._verified, token, verified)
        elif verified.claims.expires_at <= now.timestamp():
            del self._verified[token]
            raise InvalidTokenError
        return verified

    def _reset(self, seconds: float) -> None:
        """Let the database confirm every user again. After the clock was set back, tokens whose
        revocation has been forgotten would otherwise be valid again."""
        self._history = self._revocations.history
        self._clock_offset = seconds - monotonic()
        self._verified.clear()
        self._confirmed.clear()

    def is_revoked(self, verified: VerifiedToken) -> bool:
        """As far as is known. The database may have lost it since (revocations/cache.py)."""
        return self._revocations.is_revoked(verified.revocation_keys)

    @property
    def history(self) -> int:
        """Of the database; see RevocationCache."""
        return self._revocations.history

    def confirm(self, verified: VerifiedToken, history: int) -> None:
        """The database, in that history, has confirmed that the token is valid."""
        if history == self._history:
            _put(self._confirmed, verified.user_version, None)


class TokenChecker:
    """Asks the cache first, then the database."""

    def __init__(self, cache: TokenCache, keys: KeyRefresher, users: Users) -> None:
        self._cache = cache
        self._keys = keys
        self._users = users

    async def check(self, context: RequestContext, token: str) -> VerifiedToken:
        """Raises InvalidTokenError."""
        now = context.now
        if verified := self._cache.check(token, now):
            return verified
        verified = self._cache.verify(token, now)
        if verified is None:
            verified = VerifiedToken.of(await self._keys.decode(token, now))
        if self._cache.is_revoked(verified):
            raise InvalidTokenError
        history = self._cache.history
        await self._users.require_active(context, verified.claims)
        self._cache.confirm(verified, history)
        return verified


def _put(cache: dict[Key, Value], key: Key, value: Value) -> None:
    """Add an entry, in place of the oldest one if there are too many."""
    if len(cache) >= MAX_CACHED:
        del cache[next(iter(cache))]
    cache[key] = value
