"""Checks access tokens, from memory if possible.

APIs check a token at every request, so this is the fast path of the service. It needs no database
once the database has confirmed the token's user. That is safe for three reasons: a valid signature
stays valid; the revocation cache has every operation that revokes a token; and memory is not used
while that cache may be incomplete. An entry is kept until its token expires, the keys change, the
clock is set, the database is replaced by another one, or there are MAX_CACHED newer entries. Only
tokens with a valid signature are cached, so forged tokens use no memory.
"""

from collections.abc import Sequence
from datetime import datetime
from time import monotonic
from typing import NamedTuple, Protocol, TypeVar

from app.context import RequestContext
from app.ip_addresses import is_in_networks
from app.tokens.errors import InvalidTokenError
from app.tokens.jwt import AccessTokens, Claims, UnknownKeyError
from app.tokens.key_refresher import KeyRefresher
from app.tokens.revocations.cache import RevocationCache
from app.users.authenticated_user import AuthenticatedUser
from app.users.service import Users

MAX_CACHED = 16_384  # tokens, each MAX_TOKEN_BYTES at most and usually a sixth of it; and users

# How far the clock may drift in total before it counts as set.
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
        # Users who exist, are enabled and have this version, according to the database.
        self._confirmed: dict[tuple[int, int], None] = {}

    def check(self, token: str, now: datetime) -> VerifiedToken | None:
        """Returns the token if it is valid, or None if only the database can tell. The caller
        compares the audience.

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
            _add(self._verified, token, verified)
        elif verified.claims.expires_at <= now.timestamp():
            del self._verified[token]
            raise InvalidTokenError
        return verified

    def _reset(self, seconds: float) -> None:
        """Forget everything, so that the database confirms each user again. Otherwise, if the clock
        was set back, tokens would be valid again whose revocations have been forgotten."""
        self._history = self._revocations.history
        self._clock_offset = seconds - monotonic()
        self._verified.clear()
        self._confirmed.clear()

    def is_revoked(self, verified: VerifiedToken) -> bool:
        """Also by revocations that the database no longer has (revocations/cache.py)."""
        return self._revocations.is_revoked(verified.revocation_keys)

    def require_audience(self, verified: VerifiedToken, audience: str | None = None) -> None:
        """Raises InvalidTokenError if the token is for another audience. None is the setting
        AUDIENCE."""
        if verified.claims.audience != (audience or self._tokens.audience):
            raise InvalidTokenError

    @property
    def history(self) -> int:
        """The history of the database (RevocationCache)."""
        return self._revocations.history

    def confirm(self, verified: VerifiedToken, history: int) -> None:
        """Note that the database, in that history, has confirmed that the token is valid."""
        if history == self._history:
            _add(self._confirmed, verified.user_version, None)


def require_network(context: RequestContext, verified: VerifiedToken) -> None:
    """Raises InvalidTokenError if the token does not work from the client's network."""
    networks = verified.claims.networks
    if networks and not is_in_networks(context.ip_address, networks):
        raise InvalidTokenError


class CredentialReader(Protocol):
    """Reads another kind of credential than access tokens, and exchanges it for one."""

    prefix: str  # of all credentials of this kind

    def find(self, credential: str, now: datetime) -> VerifiedToken | None:
        """From memory. Returns None if only the database can tell. Raises InvalidTokenError."""

    async def check(self, context: RequestContext, credential: str) -> VerifiedToken:
        """Raises InvalidTokenError."""


class TokenChecker:
    """Checks tokens in the cache first, then in the database."""

    def __init__(self, cache: TokenCache, keys: KeyRefresher, users: Users) -> None:
        self._cache = cache
        self._keys = keys
        self._users = users
        self.readers: Sequence[CredentialReader] = ()

    def find(self, token: str, now: datetime) -> VerifiedToken | None:
        """From memory. Returns None if only the database can tell. Raises InvalidTokenError."""
        return self._cache.check(token, now)

    def find_credential(self, credential: str, now: datetime) -> VerifiedToken | None:
        """What a client sends as a bearer token, from memory. Returns None if only the database
        can tell. Raises InvalidTokenError."""
        for reader in self.readers:
            if credential.startswith(reader.prefix):
                return reader.find(credential, now)
        return self._cache.check(credential, now)

    async def check_credential(self, context: RequestContext, credential: str) -> VerifiedToken:
        """What a client sends as a bearer token. The caller calls require_audience() and
        require_network(). Raises InvalidTokenError."""
        for reader in self.readers:
            if credential.startswith(reader.prefix):
                return await reader.check(context, credential)
        return await self.check_for_any_audience(context, credential)

    async def check(self, context: RequestContext, token: str) -> VerifiedToken:
        """For tokens for the setting AUDIENCE only. Raises InvalidTokenError."""
        verified = await self.check_for_any_audience(context, token)
        self._cache.require_audience(verified)
        return verified

    def require_audience(
        self, credential: str, verified: VerifiedToken, audience: str | None = None
    ) -> None:
        """As TokenCache.require_audience(). Other credentials are for all audiences: each of them
        can be exchanged for a token for any audience."""
        if not any(credential.startswith(reader.prefix) for reader in self.readers):
            self._cache.require_audience(verified, audience)

    async def check_for_any_audience(self, context: RequestContext, token: str) -> VerifiedToken:
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


def _add(cache: dict[Key, Value], key: Key, value: Value) -> None:
    """Add an entry. Replaces the oldest one if the cache is full."""
    if len(cache) >= MAX_CACHED:
        del cache[next(iter(cache))]
    cache[key] = value
