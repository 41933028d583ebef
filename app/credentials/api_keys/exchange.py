"""Exchanges API keys for access tokens.

Everything else in the service knows access tokens only, so their revocations apply to keys too. A
worker issues one token for each key, version, audience and scope, and gives the same one to all
until half of its life is over.
"""

from asyncio import Lock
from datetime import datetime
from typing import NamedTuple
from weakref import WeakValueDictionary

from app.context import RequestContext
from app.credentials.api_keys.fingerprints import hash_key
from app.credentials.api_keys.live_keys import LiveKeys, fingerprint_of
from app.credentials.api_keys.scopes import scopes_of_key
from app.credentials.api_keys.stored_keys import find_key
from app.credentials.api_keys.usage import KeyUsage
from app.groups.user_scopes import find_user_scopes
from app.settings import Settings
from app.tokens.errors import InvalidTokenError
from app.tokens.jwt import AccessTokenRequest, AccessTokens
from app.tokens.key_refresher import KeyRefresher
from app.users.token_cache import TokenCache, TokenChecker, VerifiedToken
from hourpass.api_keys import KEY_LENGTH, PREFIX, is_well_formed
from hourpass.scopes import intersection, scope_string

MAX_TOKENS = 16_384  # of a worker; the oldest one is dropped
MAX_TOKENS_OF_KEY = 32  # so that one key cannot drop the tokens of all others


class ExchangedToken(NamedTuple):
    token: str
    verified: VerifiedToken

    @property
    def renew_at(self) -> float:
        """When half of its life is over."""
        claims = self.verified.claims
        return (claims.issued_at + claims.expires_at) / 2


class _Request(NamedTuple):
    """None: the setting AUDIENCE, and all scopes."""

    audience: str | None = None
    scope: str | None = None


class KeyExchange:
    """A CredentialReader."""

    prefix = PREFIX

    def __init__(  # noqa: PLR0913 - one for each service that an exchange calls
        self,
        *,
        settings: Settings,
        tokens: AccessTokens,
        keys: KeyRefresher,
        cache: TokenCache,
        checker: TokenChecker,
        live_keys: LiveKeys,
        usage: KeyUsage,
    ) -> None:
        self._is_admin_allowed = settings.admin_second_factor != "required"
        self._tokens = tokens
        self._keys = keys
        self._cache = cache
        self._checker = checker
        self._live_keys = live_keys
        self._usage = usage
        # By the SHA-256 of the key.
        self._exchanged: dict[bytes, dict[_Request, ExchangedToken]] = {}
        self._count = 0  # of the tokens
        self._locks: WeakValueDictionary[bytes, Lock] = WeakValueDictionary()

    def find(self, credential: str, now: datetime) -> VerifiedToken | None:
        digest = _digest_of(credential)
        if exchanged := self._get(digest, _Request(), now):
            try:
                verified = self._cache.check(exchanged.token, now)
            except InvalidTokenError:  # revoked, so the key is exchanged anew, if it is valid
                return None
            if verified:
                self._usage.note(verified.claims.client_id, now)
            return verified
        _require_well_formed(credential)
        self._live_keys.refuse_unknown(fingerprint_of(digest))
        return None

    async def check(self, context: RequestContext, credential: str) -> VerifiedToken:
        return (await self.exchange(context, credential)).verified

    async def exchange(
        self,
        context: RequestContext,
        key: str,
        audience: str | None = None,
        scope: str | None = None,
    ) -> ExchangedToken:
        """A valid access token for the key, with those of the scopes that the key has. By default,
        it is for the setting AUDIENCE and has all scopes of the key.

        Raises InvalidTokenError, without a query if the key is certainly unknown, and
        UnavailableError (LiveKeys).
        """
        digest = _digest_of(key)
        request = _Request(
            None if audience == self._tokens.audience else audience,
            scope_string(set(scope.split())) if scope else None,
        )
        exchanged = await self._find_valid(context, digest, request)
        if exchanged is None:
            _require_well_formed(key)
            if not await self._live_keys.may_exist(fingerprint_of(digest)):
                raise InvalidTokenError
            await _release_connection(context)
            # A hundred requests with a new key take one query and one signature.
            async with self._locks.setdefault(digest, Lock()):
                exchanged = await self._find_valid(context, digest, request)
                if exchanged is None:
                    exchanged = await self._issue(context, key, digest, request)
                    self._remember(digest, request, exchanged)
        self._usage.note(exchanged.verified.claims.client_id, context.now)
        return exchanged

    def _get(self, digest: bytes, request: _Request, now: datetime) -> ExchangedToken | None:
        tokens = self._exchanged.get(digest)
        exchanged = tokens.get(request) if tokens else None
        return exchanged if exchanged and now.timestamp() < exchanged.renew_at else None

    async def _find_valid(
        self, context: RequestContext, digest: bytes, request: _Request
    ) -> ExchangedToken | None:
        exchanged = self._get(digest, request, context.now)
        if exchanged is None:
            return None
        try:
            await self._checker.check_for_any_audience(context, exchanged.token)
        except InvalidTokenError:
            return None
        return exchanged

    async def _issue(
        self, context: RequestContext, key: str, digest: bytes, request: _Request
    ) -> ExchangedToken:
        await _release_connection(context)
        await self._keys.catch_up()  # a revoked key must not sign
        head, history = self._live_keys.head, self._cache.history
        found = await find_key(context, key)
        if found is None or found[0].revoked_at or found[0].suspended_at:
            self._live_keys.forget(fingerprint_of(digest), head)
            raise InvalidTokenError
        stored, owner = found
        # Times in a token have whole seconds.
        is_expired = int(stored.expires_at.timestamp()) <= context.now.timestamp()
        if is_expired or not owner.is_enabled:
            raise InvalidTokenError
        owned = await find_user_scopes(context, owner)
        scopes = scopes_of_key(stored.scopes, owned.scopes)
        if not self._is_admin_allowed:
            scopes -= {"admin"}
        if request.scope is not None:
            scopes = intersection(scopes, set(request.scope.split()))
        token = self._tokens.encode(
            AccessTokenRequest(
                subject=str(owner.id),
                username=owner.username,
                token_version=owner.token_version,
                scope=scope_string(scopes),
                authenticated_at=stored.created_at,
                session=f"{stored.id}.{stored.version}",
                audience=request.audience,
                client_id=stored.id,
                kind=owner.kind,
                is_limited=True,
                groups=owned.groups,
                networks=tuple((stored.networks or "").split()),
                not_after=stored.expires_at,
            ),
            context.now,
        )
        verified = self._cache.verify(token, context.now)
        # A restored database may not know that this version of the key has been revoked.
        if verified is None or self._cache.is_revoked(verified):
            raise InvalidTokenError
        self._cache.confirm(verified, history)
        return ExchangedToken(token, verified)

    def _remember(self, digest: bytes, request: _Request, exchanged: ExchangedToken) -> None:
        """Drops the oldest token of the key, and the tokens of the oldest key, if there are too
        many."""
        tokens = self._exchanged.pop(digest, {})
        self._count -= len(tokens)
        tokens.pop(request, None)
        if len(tokens) >= MAX_TOKENS_OF_KEY:
            del tokens[next(iter(tokens))]
        tokens[request] = exchanged
        self._exchanged[digest] = tokens
        self._count += len(tokens)
        while self._count > MAX_TOKENS:
            self._count -= len(self._exchanged.pop(next(iter(self._exchanged))))


async def _release_connection(context: RequestContext) -> None:
    """Waiting requests must not have the connections that the one they wait for needs."""
    if context.session.in_transaction():
        await context.session.commit()


def _require_well_formed(key: str) -> None:
    """Raises InvalidTokenError."""
    if not is_well_formed(key):
        raise InvalidTokenError


def _digest_of(key: str) -> bytes:
    """The column `secret_hash`. Raises InvalidTokenError if the key has another length."""
    if len(key) != KEY_LENGTH or not key.isascii():
        raise InvalidTokenError
    return hash_key(key)
