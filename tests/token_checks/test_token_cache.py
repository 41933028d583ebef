"""The cache of verified tokens: what it answers, and when it is cleared."""

from datetime import UTC, datetime, timedelta
from typing import Any, cast

import pytest

from app.settings import Settings
from app.tokens.errors import InvalidTokenError
from app.tokens.jwt import AccessTokenRequest, AccessTokens
from app.tokens.revocations.cache import RevocationCache
from app.tokens.signing_keys.keys import Keyring
from app.users import token_cache
from app.users.token_cache import TokenCache, TokenChecker, VerifiedToken
from tests.support.signing_keys import make_key

NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
HOUR = timedelta(hours=1)
SECOND = timedelta(seconds=1)


class Revocations:
    """The part of the cache of revocations that the cache of tokens uses."""

    def __init__(self) -> None:
        self.fresh = True
        self.history = 1
        self.revoked: set[str] = set()

    def is_fresh(self) -> bool:
        return self.fresh

    def is_revoked(self, values: tuple[str, ...]) -> bool:
        return not self.revoked.isdisjoint(values)


class ObservedCache(TokenCache):
    """On a machine that has been running for 1,000 seconds."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.running = 1_000.0
        monkeypatch.setattr(token_cache, "monotonic", lambda: self.running)
        self.tokens = AccessTokens(Settings.model_construct(), Keyring([make_key("camelot")]))
        self.revocations = Revocations()
        self.read: list[str] = []  # tokens whose signature was checked
        decode = self.tokens.decode

        def note(token: str, now: datetime) -> Any:
            self.read.append(token)
            return decode(token, now)

        monkeypatch.setattr(self.tokens, "decode", note)
        super().__init__(self.tokens, cast("RevocationCache", self.revocations))

    def issue(self, user: int = 1, version: int = 7) -> str:
        request = AccessTokenRequest(str(user), "lancelot", version, "", NOW, "0123456789abcdef")
        return self.tokens.encode(request, NOW)

    def remember(self, token: str) -> VerifiedToken:
        """As if the database had confirmed its user."""
        assert self.check(token, NOW) is None
        verified = self.verify(token, NOW)
        assert verified
        self.confirm(verified, self.history)
        return verified


@pytest.fixture
def cache(monkeypatch: pytest.MonkeyPatch) -> ObservedCache:
    return ObservedCache(monkeypatch)


@pytest.fixture
def token(cache: ObservedCache) -> str:
    """A token in the cache."""
    token = cache.issue()
    cache.remember(token)
    return token


def test_a_signature_is_checked_once(cache: ObservedCache, token: str) -> None:
    for _ in range(3):
        found = cache.check(token, NOW)
        assert found
        assert (found.user.id, found.claims.subject) == (1, "1")
    assert cache.read == [token]


@pytest.mark.usefixtures("token")
def test_another_user_or_another_version_is_not_confirmed(cache: ObservedCache) -> None:
    assert cache.check(cache.issue(user=1, version=7), NOW)
    assert cache.check(cache.issue(user=2, version=7), NOW) is None
    assert cache.check(cache.issue(user=1, version=8), NOW) is None


def test_a_cached_token_expires_to_the_second(cache: ObservedCache, token: str) -> None:
    cache.running += 3_599
    assert cache.check(token, NOW + HOUR - SECOND)
    cache.running += 1
    for _ in range(2):
        with pytest.raises(InvalidTokenError):
            cache.verify(token, NOW + HOUR)
    assert cache._verified == {}


def test_a_cached_token_can_be_revoked(cache: ObservedCache, token: str) -> None:
    verified = cache.check(token, NOW)
    assert verified
    assert len(verified.revocation_keys) == 4
    for value in verified.revocation_keys:
        cache.revocations.revoked = {value}
        with pytest.raises(InvalidTokenError):
            cache.check(token, NOW)


def test_the_cache_is_not_used_while_revocations_may_be_missing(
    cache: ObservedCache, token: str
) -> None:
    cache.revocations.fresh = False
    assert cache.check(token, NOW) is None


@pytest.mark.usefixtures("token")
def test_new_keys_clear_the_cache(cache: ObservedCache) -> None:
    cache.tokens.keyring = Keyring([make_key("ffffffffffffffff")])
    newer = cache.issue()
    assert cache.check(newer, NOW)
    assert list(cache._verified) == [newer]
    assert cache.check(newer, NOW)
    assert cache.read.count(newer) == 1


def test_another_database_must_confirm_each_user_again(cache: ObservedCache, token: str) -> None:
    verified = cache.check(token, NOW)
    assert verified
    cache.revocations.history = 2
    assert cache.check(token, NOW) is None
    cache.confirm(verified, 1)  # an answer of the former one
    assert cache.check(token, NOW) is None
    cache.confirm(verified, 2)
    assert cache.check(token, NOW)


@pytest.mark.parametrize(
    ("drift", "is_known"),
    [(60, True), (61, False), (-60, True), (-61, False)],
    ids=str,
)
def test_a_clock_that_jumps_by_more_than_a_minute_clears_the_cache(
    cache: ObservedCache, token: str, drift: int, is_known: bool
) -> None:
    cache.running += 600
    now = NOW + timedelta(seconds=600 + drift)
    assert (cache.check(token, now) is not None) == is_known
    assert cache.read.count(token) == (1 if is_known else 2)
    verified = cache.verify(token, now)
    assert verified
    cache.confirm(verified, 1)
    assert cache.check(token, now), "the new time counts from now on"


class Service:
    """Counts the questions to the database and the key refresher."""

    def __init__(self, cache: ObservedCache) -> None:
        self.asked: list[str] = []
        self._cache = cache

    async def decode(self, token: str, now: datetime) -> Any:
        self.asked.append("keys")
        self._cache.tokens.keyring = Keyring([KEY])
        return self._cache.tokens.decode(token, now)

    async def require_active(self, *_: Any) -> None:
        self.asked.append("database")


KEY = make_key("ffffffffffffffff")


async def test_the_database_is_asked_once_about_a_user_and_the_keys_only_if_they_are_unknown(
    cache: ObservedCache, token: str
) -> None:
    service: Any = Service(cache)
    checker = TokenChecker(cache, service, service)
    context: Any = type("Context", (), {"now": NOW})
    other = cache.issue(user=2)
    for _ in range(2):
        assert (await checker.check(context, token)).user.id == 1
        assert (await checker.check(context, other)).user.id == 2
    assert service.asked == ["database"]
    elsewhere = AccessTokens(Settings.model_construct(), Keyring([KEY]))
    request = AccessTokenRequest("3", "galahad", 7, "", NOW)
    unknown = elsewhere.encode(request, NOW)
    for _ in range(2):
        assert (await checker.check(context, unknown)).user.id == 3
    assert service.asked == ["database", "keys", "database"]


async def test_known_revocations_apply_while_others_may_be_missing(
    cache: ObservedCache, token: str
) -> None:
    service: Any = Service(cache)
    checker = TokenChecker(cache, service, service)
    context: Any = type("Context", (), {"now": NOW})
    cache.revocations.fresh = False
    assert await checker.check(context, token)
    cache.revocations.revoked = {"sub:1:7"}
    with pytest.raises(InvalidTokenError):
        await checker.check(context, token)
    assert service.asked == ["database"]
