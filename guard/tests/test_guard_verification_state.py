"""A guard keeps each revocation for its time, whatever the feed, the keys and the clocks do. The
number of revocations is limited."""

import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import httpx
import pytest

from hourpass import Guard, InvalidTokenError, ServiceUnavailableError
from hourpass.guard import revocation_feed, verification_state
from hourpass.guard.service_client import MAX_KEPT, MAX_VALUE_LENGTH, MIN_KEPT, FeedPage
from hourpass.guard.token_verifier import Verified
from hourpass.guard.verification_state import MAX_REVOCATIONS, Revocations
from hourpass.testing import LIFETIME, Issuer, SigningKey
from hourpass.testing.issuer import KEPT_AFTERWARDS
from tests.support.guards import comes_true, guard_messages, refusal_of
from tests.support.handmade_tokens import KEYS_PATH, StillClock, answers, guarded, page, state_of

pytest_plugins = ["hourpass.testing"]

HOUR = timedelta(hours=1)
MINUTE = timedelta(minutes=1)


@pytest.fixture
def issuer(hourpass_issuer: Issuer) -> Issuer:
    return hourpass_issuer


class TwoDatabases:
    """Behind one address, with the same feed name and position, and different rows in it."""

    def __init__(self, issuer: Issuer) -> None:
        self.now = "a"
        self.rows = {"a": ["jti:in both", "jti:only in a"], "b": ["jti:in both", "jti:only in b"]}
        self.is_away = False
        answers(issuer, "/revocations", self._answer)

    def _answer(self, request: httpx.Request) -> httpx.Response:
        time.sleep(0.005)  # it does not wait for revocations
        if self.is_away:
            raise httpx.ConnectError("", request=request)
        now, after = self.now, request.url.params.get("after")
        position, mark = after.split(".") if after else ("0", now)
        if mark != now:
            return httpx.Response(410)
        return page(self.rows[now][int(position) :], f"{len(self.rows[now])}.{now}")


@pytest.fixture(autouse=True)
def without_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(revocation_feed, "PLAIN_POLL_SECONDS", 0.001)
    monkeypatch.setattr(revocation_feed, "spread", lambda _: 0.001)


@pytest.mark.parametrize("when", ["while it answers", "during an outage"])
@pytest.mark.parametrize("keys", ["the same keys", "other keys as well"])
def test_a_guard_neither_forgets_nor_misses_a_revocation_when_the_database_is_replaced(
    issuer: Issuer, when: str, keys: str, caplog: pytest.LogCaptureFixture
) -> None:
    databases = TwoDatabases(issuer)
    guard = guarded(issuer)
    neither, in_both, in_a, in_b = (
        issuer.token(jti=jti) for jti in ("x", "in both", "only in a", "only in b")
    )
    assert refusal_of(guard, in_a) is InvalidTokenError
    assert refusal_of(guard, in_b) is None  # and is remembered
    first_keys = state_of(guard)
    if keys == "other keys as well":
        both = [issuer._key.public_jwk(), SigningKey().public_jwk()]
        answers(issuer, KEYS_PATH, lambda _: httpx.Response(200, json={"keys": both}))
    if when == "during an outage":
        databases.is_away = True
        assert comes_true(lambda: len(guard_messages(caplog)) == 1)
    databases.now, databases.is_away = "b", False
    assert comes_true(lambda: refusal_of(guard, in_b) is InvalidTokenError)
    assert comes_true(lambda: guard_messages(caplog)[-1:] != [])
    assert refusal_of(guard, in_a) is InvalidTokenError
    assert refusal_of(guard, in_both) is InvalidTokenError
    assert refusal_of(guard, neither) is None
    if keys == "other keys as well":
        assert comes_true(lambda: state_of(guard) is not first_keys)
        assert refusal_of(guard, in_a) is InvalidTokenError
        assert refusal_of(guard, neither) is None


def test_while_it_starts_over_no_check_misses_what_was_heard(issuer: Issuer) -> None:
    databases = TwoDatabases(issuer)
    guard = guarded(issuer)
    in_a = issuer.token(jti="only in a")
    assert refusal_of(guard, in_a) is InvalidTokenError
    answers_to: set[object] = set()
    stopping = threading.Event()

    def hammer() -> None:
        while not stopping.is_set():
            answers_to.add(refusal_of(guard, in_a))

    def has_read_from(name: str) -> bool:
        return (state_of(guard).revocations.cursor or "").endswith(name)

    threads = [threading.Thread(target=hammer) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        for turn in range(20):
            databases.now = "ba"[turn % 2]
            assert comes_true(partial(has_read_from, databases.now))
    finally:
        stopping.set()
        for thread in threads:
            thread.join()
    assert answers_to == {InvalidTokenError}


def test_without_public_keys_starting_over_checks_each_token_again(
    issuer: Issuer, caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing else shows that another service has this address now."""
    vouched: list[int] = [200]
    answers(issuer, KEYS_PATH, lambda _: httpx.Response(200, json={"keys": []}))
    answers(issuer, "/verify", lambda _: httpx.Response(vouched[-1]))
    guard = guarded(issuer)
    token = issuer.token()
    guard.check(token)
    vouched.append(401)
    assert refusal_of(guard, token) is None
    with issuer.outage(lasting=timedelta(0)):
        assert comes_true(lambda: len(guard_messages(caplog)) == 1)
    assert refusal_of(guard, token) is InvalidTokenError


@pytest.mark.parametrize(
    ("passes", "set_by"),
    [
        pytest.param(70 * MINUTE, [-HOUR], id="an hour back"),
        pytest.param(24.5 * HOUR, [-24 * HOUR], id="a day back"),
        pytest.param(0 * HOUR, [30 * HOUR, -30 * HOUR], id="ahead, and right again"),
        pytest.param(0 * HOUR, [-3 * HOUR, 3 * HOUR], id="back, and right again"),
    ],
)
def test_no_setting_of_the_wall_clock_brings_a_revoked_token_back(
    hourpass_issuer: Issuer, passes: timedelta, set_by: list[timedelta]
) -> None:
    issuer, clock = hourpass_issuer, StillClock()
    issuer.clock = clock
    guard = guarded(issuer)
    revoked, good = issuer.token(), issuer.token()
    guard.check(revoked)
    issuer.revoke(revoked)
    issuer.advance_time(passes)
    for span in set_by:
        clock.set_wall_clock(by=span)
        issuer.advance_time(timedelta(0))  # a page, at which what is old is forgotten
        assert refusal_of(guard, revoked) is InvalidTokenError
    # By this clock both are within their hour: nothing but the revocation refuses the one.
    assert refusal_of(guard, good) is None
    assert refusal_of(guard, revoked) is InvalidTokenError


def test_when_the_wall_clock_was_set_each_cached_token_is_verified_again(
    hourpass_issuer: Issuer,
) -> None:
    hourpass_issuer.clock = clock = StillClock()
    guard = guarded(hourpass_issuer)
    tokens = [hourpass_issuer.token() for _ in range(3)]
    for token in tokens:
        guard.check(token)
    clock.set_wall_clock(by=timedelta(seconds=59))
    guard.check(tokens[0])
    assert len(state_of(guard)._remembered) == 3
    clock.set_wall_clock(by=timedelta(seconds=2))
    guard.check(tokens[0])
    assert list(state_of(guard)._remembered) == tokens[:1]
    clock.advance(timedelta(seconds=5))
    guard.check(tokens[1])
    assert list(state_of(guard)._remembered) == tokens[:2]


def test_tokens_in_memory_are_changed_by_one_thread_at_a_time(
    hourpass_issuer: Issuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise two threads could drop the same token, and one would fail with a KeyError."""
    hourpass_issuer.clock = clock = StillClock()
    guard = guarded(hourpass_issuer)
    guard.check(hourpass_issuer.token())
    memory = state_of(guard)
    changes: list[str] = []

    class Watched(dict[str, Verified]):
        def change(self, name: str) -> None:
            assert memory._changing.locked()
            changes.append(name)

        def __setitem__(self, token: str, verified: Verified) -> None:
            self.change("add")
            super().__setitem__(token, verified)

        def pop(self, token: str, *default: Any) -> Any:
            self.change("drop")
            return super().pop(token, *default)

        def clear(self) -> None:
            self.change("clear")
            super().clear()

    memory._remembered = Watched()
    monkeypatch.setattr(verification_state, "MAX_REMEMBERED", 1)
    first, second = hourpass_issuer.token(), hourpass_issuer.token()
    guard.check(first)
    guard.check(second)
    hourpass_issuer.revoke(second)
    assert refusal_of(guard, second) is InvalidTokenError
    clock.set_wall_clock(by=2 * MINUTE)
    guard.check(first)
    assert changes == ["add", "drop", "add", "drop", "clear", "add"]


def seconds_kept(guard: Guard, value: str) -> float:
    forget_at = state_of(guard).revocations._forget_at[value]
    return forget_at - guard._clock.monotonic()


@pytest.mark.parametrize(
    ("answer", "kept"),
    [
        pytest.param(lambda now: page(["jti:a"], "1", date=now), 25 * HOUR, id="right"),
        pytest.param(
            lambda now: page(["jti:a"], "1", date=now + 2 * HOUR), 25 * HOUR, id="two hours ahead"
        ),
        pytest.param(
            lambda now: page(["jti:a"], "1", date=now - 2 * HOUR), 25 * HOUR, id="two hours behind"
        ),
        pytest.param(
            lambda now: page(["jti:a"], "1", date=now - 9_999 * HOUR), 25 * HOUR, id="last year"
        ),
        pytest.param(
            lambda now: page(["jti:a"], "1", date=now, expires_in=9_999 * HOUR),
            MAX_KEPT,
            id="at odds with its proxy: too long",
        ),
        pytest.param(
            lambda now: page(["jti:a"], "1", date=now, expires_in=-9_999 * HOUR),
            MIN_KEPT,
            id="at odds with its proxy: over already",
        ),
    ],
)
def test_revocations_of_a_service_with_a_wrong_clock_are_in_force(
    hourpass_issuer: Issuer, answer: Callable[[datetime], httpx.Response], kept: timedelta
) -> None:
    hourpass_issuer.clock = StillClock()
    answers(hourpass_issuer, "/revocations", lambda _: answer(datetime.now(UTC)))
    guard = guarded(hourpass_issuer)
    assert refusal_of(guard, hourpass_issuer.token(jti="a")) is InvalidTokenError
    assert abs(seconds_kept(guard, "jti:a") - kept.total_seconds()) <= 1  # `Date` has no fractions


@pytest.mark.parametrize("date", [None, "yesterday"])
def test_revocations_without_a_date_header_are_kept_for_the_longest_lifetime_of_a_token(
    hourpass_issuer: Issuer, date: str | None
) -> None:
    def answer(_: httpx.Request) -> httpx.Response:
        response = page(["jti:a"], "1", expires_in=HOUR)
        del response.headers["Date"]
        response.headers.update({"Date": date} if date else {})
        return response

    hourpass_issuer.clock = StillClock()
    answers(hourpass_issuer, "/revocations", answer)
    guard = guarded(hourpass_issuer)
    assert refusal_of(guard, hourpass_issuer.token(jti="a")) is InvalidTokenError
    assert seconds_kept(guard, "jti:a") == MAX_KEPT.total_seconds()


def test_revocations_without_valid_tokens_are_deleted(issuer: Issuer) -> None:
    guard = guarded(issuer)
    guard.check(issuer.token())
    for number in range(20):
        issuer.publish(f"jti:{number}")
    issuer.clock.advance(LIFETIME + KEPT_AFTERWARDS + timedelta(seconds=1))
    issuer.publish("jti:20")
    assert "jti:20" in state_of(guard).revocations._forget_at
    assert "jti:0" not in state_of(guard).revocations._forget_at


def test_a_feed_without_end_is_not_kept_and_all_tokens_are_refused(
    issuer: Issuer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(verification_state, "MAX_REVOCATIONS", 5)
    length = iter([3])
    answers(
        issuer,
        "/revocations",
        lambda _: page([f"jti:{n}" for n in range(next(length, 9))], "0"),
    )
    guard = guarded(issuer)
    token = issuer.token()
    guard.check(token)
    said = "The Hourpass service cannot be reached: more revocations than are kept"
    assert comes_true(lambda: said in guard_messages(caplog))
    assert len(state_of(guard).revocations._forget_at) == 5
    issuer.clock.advance(timedelta(seconds=revocation_feed.OUTAGE_NOTICED_SECONDS))
    assert refusal_of(guard, token) is ServiceUnavailableError


def test_a_full_cache_evicts_the_oldest_entries_and_accepts_known_ones_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(verification_state, "MAX_REVOCATIONS", 3)
    revocations = Revocations()
    revocations.add(FeedPage({"jti:1": 10, "jti:2": 20, "jti:3": 30}, "3", more=False), 0)
    revocations.add(FeedPage({"jti:3": 30, "jti:2": 1}, "3", more=False), 1)
    assert revocations._forget_at == {"jti:1": 10, "jti:2": 20, "jti:3": 31}
    with pytest.raises(verification_state.TooManyRevocationsError):
        revocations.add(FeedPage({"jti:4": 40}, "4", more=False), 9)
    assert revocations.cursor == "3"
    revocations.add(FeedPage({"jti:4": 40}, "4", more=False), 10)
    assert list(revocations._forget_at) == ["jti:2", "jti:3", "jti:4"]


def test_what_is_no_revocation_of_the_services_is_not_kept(issuer: Issuer) -> None:
    answers(issuer, "/revocations", lambda _: page(["jti:" + "x" * MAX_VALUE_LENGTH], "1"))
    guard = guarded(issuer, timeout=timedelta(seconds=0.05))
    assert refusal_of(guard, issuer.token()) is ServiceUnavailableError
    assert MAX_REVOCATIONS == 1_000_000
