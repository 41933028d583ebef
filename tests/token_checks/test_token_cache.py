"""What a worker remembers of the tokens that it has checked, and when it forgets it."""

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
from tests.tokens.test_token_reading import make_key

NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
HOUR = timedelta(hours=1)
SECOND = timedelta(seconds=1)


class Revocations:
    """What the cache of tokens uses of the cache of revocations."""

    def __init__(self) -> None:
        self.fresh = True
        self.history = 1
        self.revoked: set[str] = set()

    def is_fresh(self) -> bool:
        return self.fresh

    def is_revoked(self, values: tuple[str, ...]) -> bool:
        return not self.revoked.isdisjoint(values)


class Memory(TokenCache):
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
def memory(monkeypatch: pytest.MonkeyPatch) -> Memory:
    return Memory(monkeypatch)


@pytest.fixture
def token(memory: Memory) -> str:
    """One that is remembered."""
    token = memory.issue()
    memory.remember(token)
    return token


def test_a_signature_is_checked_once(memory: Memory, token: str) -> None:
    for _ in range(3):
        found = memory.check(token, NOW)
        assert found
        assert (found.user.id, found.claims.subject) == (1, "1")
    assert memory.read == [token]


@pytest.mark.usefixtures("token")
def test_of_another_user_and_another_version_nothing_is_known(memory: Memory) -> None:
    assert memory.check(memory.issue(user=1, version=7), NOW)
    assert memory.check(memory.issue(user=2, version=7), NOW) is None
    assert memory.check(memory.issue(user=1, version=8), NOW) is None


def test_a_remembered_token_expires_to_the_second(memory: Memory, token: str) -> None:
    memory.running += 3_599
    assert memory.check(token, NOW + HOUR - SECOND)
    memory.running += 1
    for _ in range(2):
        with pytest.raises(InvalidTokenError):
            memory.verify(token, NOW + HOUR)
    assert memory._verified == {}


def test_a_remembered_token_can_be_revoked(memory: Memory, token: str) -> None:
    verified = memory.check(token, NOW)
    assert verified
    assert len(verified.revocation_keys) == 4
    for value in verified.revocation_keys:
        memory.revocations.revoked = {value}
        with pytest.raises(InvalidTokenError):
            memory.check(token, NOW)


def test_while_revocations_may_be_missing_memory_does_not_count(memory: Memory, token: str) -> None:
    memory.revocations.fresh = False
    assert memory.check(token, NOW) is None


@pytest.mark.usefixtures("token")
def test_with_the_keys_the_tokens_are_forgotten(memory: Memory) -> None:
    memory.tokens.keyring = Keyring([make_key("ffffffffffffffff")])
    newer = memory.issue()
    assert memory.check(newer, NOW)
    assert list(memory._verified) == [newer]
    assert memory.check(newer, NOW)
    assert memory.read.count(newer) == 1


def test_another_database_has_to_confirm_each_user_again(memory: Memory, token: str) -> None:
    verified = memory.check(token, NOW)
    assert verified
    memory.revocations.history = 2
    assert memory.check(token, NOW) is None
    memory.confirm(verified, 1)  # an answer of the former one
    assert memory.check(token, NOW) is None
    memory.confirm(verified, 2)
    assert memory.check(token, NOW)


@pytest.mark.parametrize(
    ("drift", "is_known"),
    [(60, True), (61, False), (-60, True), (-61, False)],
    ids=str,
)
def test_a_clock_that_is_off_by_more_than_a_minute_was_set(
    memory: Memory, token: str, drift: int, is_known: bool
) -> None:
    memory.running += 600
    now = NOW + timedelta(seconds=600 + drift)
    assert (memory.check(token, now) is not None) == is_known
    assert memory.read.count(token) == (1 if is_known else 2)
    verified = memory.verify(token, now)
    assert verified
    memory.confirm(verified, 1)
    assert memory.check(token, now), "the new time counts from now on"


class Service:
    """What is asked if memory does not know."""

    def __init__(self, memory: Memory) -> None:
        self.asked: list[str] = []
        self._memory = memory

    async def decode(self, token: str, now: datetime) -> Any:
        self.asked.append("keys")
        self._memory.tokens.keyring = Keyring([KEY])
        return self._memory.tokens.decode(token, now)

    async def require_active(self, *_: Any) -> None:
        self.asked.append("database")


KEY = make_key("ffffffffffffffff")


async def test_the_database_is_asked_once_about_a_user_and_the_keys_only_if_they_are_unknown(
    memory: Memory, token: str
) -> None:
    service: Any = Service(memory)
    checker = TokenChecker(memory, service, service)
    context: Any = type("Context", (), {"now": NOW})
    other = memory.issue(user=2)
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


async def test_a_revocation_that_is_known_counts_also_while_others_may_be_missing(
    memory: Memory, token: str
) -> None:
    service: Any = Service(memory)
    checker = TokenChecker(memory, service, service)
    context: Any = type("Context", (), {"now": NOW})
    memory.revocations.fresh = False
    assert await checker.check(context, token)
    memory.revocations.revoked = {"sub:1:7"}
    with pytest.raises(InvalidTokenError):
        await checker.check(context, token)
    assert service.asked == ["database"]
