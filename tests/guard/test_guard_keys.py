"""Tokens under keys that a guard does not have: new ones, revoked ones, and made-up ones.

A client discards a token that is called invalid. So a guard never calls a valid token invalid,
however late it reads the token's key.
"""

import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from threading import Semaphore
from typing import Any

import httpx
import pytest

from hourpass import Guard, InvalidTokenError, ServiceUnavailableError
from hourpass.guard import revocation_feed
from hourpass.guard.revocation_feed import OLD_KEYS_SECONDS, RevocationFeed
from hourpass.guard.unknown_kids import (
    LAST_PAUSE_SECONDS,
    MAX_KIDS,
    PUBLISHED_SECONDS,
    QUIET_SECONDS,
    UnknownKids,
)
from hourpass.guard.verification_state import VerificationState
from hourpass.testing import Issuer, SigningKey
from tests.support.guards import SOON_SECONDS, comes_true, guard_messages, refusal_of
from tests.support.handmade_tokens import KEYS_PATH, StillClock, answers, guarded, state_of
from tests.support.round_robin import round_robin
from tests.support.running_service import RunningService
from tests.support.service_process import two_services
from tests.support.users import kid_of

pytest_plugins = ["hourpass.testing"]


@pytest.fixture
def issuer(hourpass_issuer: Issuer) -> Issuer:
    return hourpass_issuer


@pytest.fixture
def guard(issuer: Issuer) -> Guard:
    guard = guarded(issuer)
    guard.check(issuer.token())
    return guard


def under_a_made_up_kid(issuer: Issuer, kid: str) -> str:
    """A token as the service would write it, except that it is signed with another key."""
    real, issuer._key = issuer._key, SigningKey()
    issuer._key.kid = kid
    try:
        return issuer.token()
    finally:
        issuer._key = real


def seconds(number: float) -> timedelta:
    return timedelta(seconds=number)


def test_a_new_key_is_found_at_once(guard: Guard, issuer: Issuer) -> None:
    issuer.rotate_key()
    assert refusal_of(guard, issuer.token()) is None


def test_one_of_many_checks_with_a_new_key_reads_it_and_all_succeed(
    guard: Guard, issuer: Issuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    issuer.rotate_key()
    tokens = [issuer.token() for _ in range(50)]
    asked_before = issuer.asked[KEYS_PATH]
    find_key, looking = RevocationFeed.find_key, Semaphore(0)

    def look_for_and_count(*arguments: Any) -> None:
        looking.release()
        find_key(*arguments)

    def when_all_are_looking(_: httpx.Request) -> None:
        assert all(looking.acquire(timeout=SOON_SECONDS) for _ in tokens)

    monkeypatch.setattr(RevocationFeed, "find_key", look_for_and_count)
    answers(issuer, KEYS_PATH, when_all_are_looking)
    with ThreadPoolExecutor(50) as threads:
        refusals = set(threads.map(lambda token: refusal_of(guard, token), tokens))
    assert refusals == {None}
    assert issuer.asked[KEYS_PATH] == asked_before + 1


def test_a_token_is_tried_with_three_key_sets_and_is_then_undecided(
    guard: Guard, issuer: Issuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if other threads read another key set each time, without the key."""
    looked_for: list[str] = []
    monkeypatch.setattr(RevocationFeed, "find_key", lambda _, kid, __: looked_for.append(kid))
    token = under_a_made_up_kid(issuer, "made up")
    assert refusal_of(guard, token) is ServiceUnavailableError
    assert looked_for == ["made up"] * 3


async def test_unknown_kids_block_no_threads_of_async_callers(
    guard: Guard, issuer: Issuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = under_a_made_up_kid(issuer, "made up")
    with pytest.raises(ServiceUnavailableError):
        await guard.acheck(token)
    submitted: list[Any] = []
    monkeypatch.setattr(guard._checker._threads, "submit", lambda *call: submitted.append(call))
    with pytest.raises(ServiceUnavailableError):
        await guard.acheck(token)
    assert submitted == []


def test_a_key_set_that_could_not_be_read_proves_nothing(guard: Guard, issuer: Issuer) -> None:
    answers(issuer, KEYS_PATH, lambda _: httpx.Response(500))
    issuer.rotate_key()
    token = issuer.token()
    for _ in range(4):
        assert refusal_of(guard, token) is ServiceUnavailableError
        issuer.advance_time(seconds(LAST_PAUSE_SECONDS))


def test_the_keys_are_read_every_five_minutes_without_anybody_asking(
    issuer: Issuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(revocation_feed, "spread", lambda _: 0.0)
    issuer.clock = clock = StillClock()
    guard = guarded(issuer)
    guard.check(issuer.token())
    asked_before, state = issuer.asked[KEYS_PATH], state_of(guard)
    issuer.rotate_key()
    clock.advance(seconds(299.9))
    issuer.publish("jti:a")
    issuer.publish("jti:b")  # read by the request that was sent at that time
    assert issuer.asked[KEYS_PATH] == asked_before
    clock.advance(seconds(0.1))
    issuer.publish("jti:c")
    assert comes_true(lambda: state_of(guard) is not state)
    assert issuer.asked[KEYS_PATH] == asked_before + 1


@pytest.mark.parametrize(
    ("is_old", "pause", "expected"),
    [
        pytest.param(False, 10, (0, 270, 300), id="in order"),
        pytest.param(True, 0, (0.2, 0.1, 0.2), id="old"),
        pytest.param(True, 10, (20, 10, 20), id="old again"),
        pytest.param(True, 200, (300, 150, 300), id="old for a long time"),
    ],
)
def test_when_the_keys_are_read_next(
    issuer: Issuer,
    monkeypatch: pytest.MonkeyPatch,
    is_old: bool,
    pause: float,
    expected: tuple[float, float, float],
) -> None:
    """`expected` is the next pause, and the soonest and the latest time of the next read."""
    issuer.clock = StillClock()
    guard = guarded(issuer)
    guard.check(issuer.token())
    follower, tokens = guard._feed, state_of(guard).tokens
    now = issuer.clock.monotonic()
    if is_old:
        state_of(guard).revocations._forget_at[f"kid:{issuer._key.kid}"] = now + 1_000
    next_pause, *due_in = expected
    due: list[float] = []
    for share in (0.0, 1.0):
        monkeypatch.setattr(revocation_feed, "spread", lambda longest, share=share: share * longest)
        follower._keys_pause = pause
        follower._use_keys(now, tokens)
        assert follower._keys_pause == next_pause
        due.append(round(follower._keys_due_at - now, 3))
    assert sorted(due) == due_in


@pytest.mark.parametrize(("after", "is_used"), [(9.9, False), (10.0, True)])
def test_a_key_set_with_a_revoked_key_counts_as_old_for_ten_seconds(
    issuer: Issuer, after: float, is_used: bool
) -> None:
    issuer.clock = clock = StillClock()
    guard = guarded(issuer)
    guard.check(issuer.token())
    follower, tokens = guard._feed, state_of(guard).tokens
    old = {"keys": [issuer._key.public_jwk()]}
    answers(issuer, KEYS_PATH, lambda _: httpx.Response(200, json=old))
    issuer.publish(f"kid:{issuer._key.kid}")
    clock.advance(seconds(after))
    assert follower._use_keys(clock.monotonic(), tokens) is is_used


def test_only_a_key_that_is_revoked_now_has_the_keys_read(guard: Guard, issuer: Issuer) -> None:
    follower = guard._feed
    issuer.publish("jti:a")
    assert follower._keys_pause == 0
    issuer.publish("kid:of another key")
    assert comes_true(lambda: follower._keys_pause == 0)  # they are in order
    asked_before = issuer.asked[KEYS_PATH]
    issuer.publish("kid:of another key")
    assert follower._keys_pause == 0
    assert issuer.asked[KEYS_PATH] == asked_before


def test_a_guard_that_starts_with_an_old_key_set_uses_its_other_keys(issuer: Issuer) -> None:
    revoked = issuer._key
    issuer.revoke_key()
    keys = [revoked.public_jwk(), issuer._key.public_jwk()]
    answers(issuer, KEYS_PATH, lambda _: httpx.Response(200, json={"keys": keys}))
    guard = guarded(issuer)
    assert refusal_of(guard, issuer.token()) is None


def test_a_token_with_an_unknown_kid_is_invalid_once_its_key_cannot_be_new(
    guard: Guard, issuer: Issuer
) -> None:
    token = under_a_made_up_kid(issuer, "made up")
    assert refusal_of(guard, token) is ServiceUnavailableError
    issuer.advance_time(seconds(PUBLISHED_SECONDS))
    assert refusal_of(guard, token) is InvalidTokenError
    asked_before = issuer.asked[KEYS_PATH]
    issuer.advance_time(seconds(LAST_PAUSE_SECONDS))
    assert refusal_of(guard, token) is InvalidTokenError
    assert issuer.asked[KEYS_PATH] == asked_before


def test_unknown_kids_make_a_guard_read_the_keys_only_rarely(guard: Guard, issuer: Issuer) -> None:
    asked_before = issuer.asked[KEYS_PATH]
    for second in range(100):
        for number in range(2):
            token = under_a_made_up_kid(issuer, f"made up {second} {number}")
            assert refusal_of(guard, token) is ServiceUnavailableError
        issuer.advance_time(seconds(1))
    # After 1, 2, 4, 8, and then every 10 seconds.
    assert issuer.asked[KEYS_PATH] - asked_before <= 14
    issuer.rotate_key()
    token = issuer.token()
    assert refusal_of(guard, token) in (None, ServiceUnavailableError)
    issuer.advance_time(seconds(LAST_PAUSE_SECONDS))
    assert refusal_of(guard, token) is None


@pytest.mark.parametrize("claims", [{"iss": "https://elsewhere.example"}, {"aud": "x"}, {"exp": 1}])
def test_a_token_that_the_service_cannot_have_signed_causes_no_request(
    guard: Guard, issuer: Issuer, claims: dict[str, Any]
) -> None:
    asked_before = issuer.asked[KEYS_PATH]
    issuer.rotate_key()
    assert refusal_of(guard, issuer.token(**claims)) is InvalidTokenError
    assert issuer.asked[KEYS_PATH] == asked_before


def test_tokens_of_a_key_that_is_no_longer_published_are_invalid(
    guard: Guard, issuer: Issuer
) -> None:
    token = issuer.token()
    guard.check(token)
    issuer.rotate_key()
    guard.check(issuer.token())
    assert refusal_of(guard, token) is ServiceUnavailableError
    issuer.advance_time(seconds(PUBLISHED_SECONDS))
    assert refusal_of(guard, token) is InvalidTokenError


def test_after_an_outage_a_guard_accepts_the_tokens_of_a_renamed_issuer_and_no_others(
    guard: Guard, issuer: Issuer, caplog: pytest.LogCaptureFixture
) -> None:
    """The keys are the same, so only the issuer tells them apart."""
    before = issuer.token()
    assert refusal_of(guard, before) is None
    with issuer.outage(lasting=seconds(1)):
        assert comes_true(lambda: len(guard_messages(caplog)) == 1)
        issuer.name = "https://camelot.example"
    assert refusal_of(guard, issuer.token()) is None
    assert refusal_of(guard, before) is InvalidTokenError


def test_tokens_of_a_revoked_key_are_invalid_at_once_and_those_of_the_next_one_valid(
    guard: Guard, issuer: Issuer
) -> None:
    seen, unseen = issuer.token(), issuer.token()
    guard.check(seen)
    issuer.revoke_key()
    for _ in range(2):
        assert refusal_of(guard, seen) is InvalidTokenError
        assert refusal_of(guard, unseen) is InvalidTokenError
    assert comes_true(lambda: refusal_of(guard, issuer.token()) is None)
    assert refusal_of(guard, unseen) is InvalidTokenError


class Workers:
    """Two behind one address: the second has old keys until it is told to catch up."""

    def __init__(self, issuer: Issuer) -> None:
        self._issuer = issuer
        self._old = [issuer._key.public_jwk()]
        self._turn = 0
        self.is_behind = True
        answers(issuer, KEYS_PATH, self._answer)

    def _answer(self, _: httpx.Request) -> httpx.Response:
        self._turn += 1
        is_second = self._turn % 2 == 1
        new = [self._issuer._key.public_jwk()]
        return httpx.Response(
            200, json={"keys": self._old if is_second and self.is_behind else new}
        )


def test_the_keys_are_read_until_the_revoked_one_is_gone_without_anybody_asking(
    guard: Guard, issuer: Issuer
) -> None:
    old = state_of(guard)
    Workers(issuer)
    issuer.revoke_key()
    assert comes_true(lambda: state_of(guard) is not old)
    assert refusal_of(guard, issuer.token()) is None


def test_keys_of_a_worker_that_is_behind_do_not_replace_newer_ones(
    guard: Guard, issuer: Issuer
) -> None:
    workers = Workers(issuer)
    issuer.revoke_key()
    assert comes_true(lambda: refusal_of(guard, issuer.token()) is None)
    new = state_of(guard)
    for number in range(4):  # so that both workers are asked again
        refusal_of(guard, under_a_made_up_kid(issuer, f"made up {number}"))
        issuer.advance_time(seconds(LAST_PAUSE_SECONDS / 5))
        assert state_of(guard) is new
        assert refusal_of(guard, issuer.token()) is None
    assert workers._turn > 4


def test_the_later_of_two_reads_of_the_keys_counts(guard: Guard, issuer: Issuer) -> None:
    old = {"keys": [issuer._key.public_jwk()]}
    asked, can_answer = threading.Event(), threading.Event()

    def late(_: httpx.Request) -> httpx.Response | None:
        if threading.current_thread().name != "asking":
            return None
        asked.set()
        assert can_answer.wait(10)
        return httpx.Response(200, json=old)

    answers(issuer, KEYS_PATH, late)
    made_up = under_a_made_up_kid(issuer, "made up")
    asking = threading.Thread(target=refusal_of, args=(guard, made_up), name="asking")
    asking.start()
    assert asked.wait(10)
    before = state_of(guard)
    issuer.rotate_key()
    issuer.publish("kid:of another key")  # has the keys read by the thread that follows the feed
    assert comes_true(lambda: state_of(guard) is not before)
    newer = state_of(guard)
    can_answer.set()
    asking.join()
    assert state_of(guard) is newer
    assert refusal_of(guard, issuer.token()) is None


@pytest.mark.parametrize("hears", ["first of the revocation", "first of the token"])
def test_a_valid_token_is_not_called_invalid_however_late_its_key_is_read(
    guard: Guard, issuer: Issuer, hears: str
) -> None:
    """Also if made-up ones have just been looked for in vain."""
    made_up = under_a_made_up_kid(issuer, "made up")
    refusal_of(guard, made_up)
    issuer.advance_time(seconds(PUBLISHED_SECONDS))
    assert refusal_of(guard, made_up) is InvalidTokenError
    old = {"keys": [issuer._key.public_jwk()]}
    has_caught_up = threading.Event()

    def keys(_: httpx.Request) -> httpx.Response | None:
        return None if has_caught_up.is_set() else httpx.Response(200, json=old)

    answers(issuer, KEYS_PATH, keys)
    kid = issuer._key.kid
    issuer.rotate_key()
    token = issuer.token()
    if hears == "first of the token":
        assert refusal_of(guard, token) is ServiceUnavailableError
    issuer.publish(f"kid:{kid}")
    revocations = state_of(guard).revocations
    assert comes_true(lambda: not revocations.contains_none((f"kid:{kid}",)))
    # Long enough for a kid to be called made-up. The guard takes the keys for old ones for 10 s.
    for _ in range(4):
        assert refusal_of(guard, token) is ServiceUnavailableError
        issuer.advance_time(seconds(1.5))
    has_caught_up.set()
    issuer.advance_time(seconds(LAST_PAUSE_SECONDS))
    answers_to: set[object] = set()

    def is_let_in() -> bool:
        answers_to.add(refusal_of(guard, token))
        return None in answers_to

    assert comes_true(is_let_in)
    assert answers_to <= {None, ServiceUnavailableError}


def test_a_service_that_still_publishes_a_revoked_key_is_asked_ever_less_often(
    guard: Guard, issuer: Issuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Only the test reads the keys.
    monkeypatch.setattr(revocation_feed, "FIRST_KEYS_PAUSE_SECONDS", 60.0)
    revoked, other = issuer._key, SigningKey()
    keys = [revoked.public_jwk()]
    answers(issuer, KEYS_PATH, lambda _: httpx.Response(200, json={"keys": keys}))
    issuer.publish(f"kid:{revoked.kid}")
    keys.append(other.public_jwk())
    issuer._key = other
    under_revoked, under_other = revoked.sign({}), issuer.token()
    assert refusal_of(guard, under_other) is ServiceUnavailableError
    issuer.advance_time(seconds(OLD_KEYS_SECONDS))
    assert comes_true(lambda: refusal_of(guard, under_other) is None)
    assert refusal_of(guard, under_revoked) is InvalidTokenError
    made_up = under_a_made_up_kid(issuer, "made up")
    assert refusal_of(guard, made_up) is ServiceUnavailableError
    issuer.advance_time(seconds(PUBLISHED_SECONDS))
    assert refusal_of(guard, made_up) is InvalidTokenError


@pytest.mark.usefixtures("guard")
def test_pauses_between_readings_of_keys_that_stay_old_double(
    issuer: Issuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []

    def spread(longest: float) -> float:
        pauses.append(longest)
        return 0.0

    monkeypatch.setattr(revocation_feed, "spread", spread)
    old = {"keys": [issuer._key.public_jwk()]}
    answers(issuer, KEYS_PATH, lambda _: httpx.Response(200, json=old))
    issuer.revoke_key()
    assert comes_true(lambda: len(pauses) >= 4)
    assert pauses[:4] == [0.2, 0.2, 0.4, 0.8]  # the half of each is certain


def test_a_limited_number_of_unknown_kids_is_remembered() -> None:
    kids = UnknownKids()
    kids.check("first", 0)
    kids.record_read(0, 0, was_answered=False)
    for number in range(2 * MAX_KIDS):
        with pytest.raises(ServiceUnavailableError):
            kids.check(f"made up {number}", 0.5)
    assert len(kids._met_at) == MAX_KIDS


@pytest.mark.parametrize(
    ("asked_at", "error"),
    [
        pytest.param([11.9], ServiceUnavailableError, id="too soon"),
        pytest.param([12.0], InvalidTokenError, id="late enough"),
        pytest.param([12.0, 11.0], InvalidTokenError, id="before a request that was sent earlier"),
    ],
)
def test_a_kid_is_invalid_if_a_key_set_of_two_seconds_later_lacks_it(
    asked_at: list[float], error: type[Exception]
) -> None:
    kids = UnknownKids()
    kids.check("made up", 10.0)
    for moment in asked_at:
        kids.record_read(moment, 13.0, was_answered=True)
    with pytest.raises(error):
        kids.check("made up", 13.0)


def test_a_check_that_missed_a_new_key_set_tries_it(guard: Guard, issuer: Issuer) -> None:
    """Another thread read it since the caller found no key in the one before."""
    before = state_of(guard)
    assert refusal_of(guard, under_a_made_up_kid(issuer, "made up")) is ServiceUnavailableError
    with pytest.raises(ServiceUnavailableError):
        guard._feed.check_unknown_kid("another", before)
    guard._feed.state = VerificationState(before.tokens, before.revocations, 0.0)
    guard._feed.check_unknown_kid("another", before)


def test_a_repeated_kid_evicts_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hourpass.guard.unknown_kids.MAX_KIDS", 2)
    kids = UnknownKids()
    for kid in ("first", "second", "second"):
        kids.check(kid, 0.0)
    kids.record_read(2.0, 2.0, was_answered=True)
    with pytest.raises(InvalidTokenError):
        kids.check("first", 2.0)


def test_with_a_new_key_set_each_kid_may_be_new_again() -> None:
    kids = UnknownKids()
    kids.check("a", 0.0)
    for moment in (5.0, 10.0):
        kids.record_read(moment, moment, was_answered=True)
    with pytest.raises(InvalidTokenError):
        kids.check("a", 10.0)
    kids.reset()
    kids.check("a", 10.0)
    kids.record_read(10.0, 10.0, was_answered=True)
    with pytest.raises(ServiceUnavailableError):
        kids.check("a", 10.9)
    kids.check("a", 11.0)


def test_unknown_kids_are_changed_by_one_thread_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise two threads could drop the same one, and one would fail with a KeyError."""
    monkeypatch.setattr("hourpass.guard.unknown_kids.MAX_KIDS", 1)
    kids = UnknownKids()
    changes: list[str] = []

    class Watched(dict[str, float]):
        def change(self, name: str) -> None:
            assert kids._lock.locked()
            changes.append(name)

        def setdefault(self, kid: str, met_at: float = 0.0) -> float:
            self.change("add")
            return super().setdefault(kid, met_at)

        def __delitem__(self, kid: str) -> None:
            self.change("drop")
            super().__delitem__(kid)

        def clear(self) -> None:
            self.change("clear")
            super().clear()

    kids._met_at = Watched()
    kids.check("first", 0.0)
    kids.check("second", 0.0)
    kids.reset()
    assert changes == ["add", "drop", "add", "clear"]


def test_the_pauses_between_reads_for_unknown_kids_are_those_of_the_readme() -> None:
    kids = UnknownKids()
    now = 0.0
    pauses = []
    for quiet_seconds in (0, 0, 0, 0, 0, 0, QUIET_SECONDS - 1, QUIET_SECONDS, 0):
        now += quiet_seconds
        kids.record_read(now, now, was_answered=True)
        pause = 0
        while True:
            try:
                kids.check(f"at {now}", now)
                break
            except ServiceUnavailableError:
                now, pause = now + 1, pause + 1
        pauses.append(pause)
    assert pauses == [1, 2, 4, 8, 10, 10, 10, 1, 2]


def test_no_new_token_is_called_invalid_while_a_key_is_revoked_on_two_workers(
    database_url: str,
) -> None:
    """Each connection of a guard is to one of the workers."""
    called_invalid: set[str] = set()
    let_in: set[str] = set()
    stopping = threading.Event()

    def use_fresh_tokens(service: RunningService, guards: list[Guard]) -> None:
        person = service.new_user()
        while not stopping.is_set():
            token = service.log_in(person)
            for guard in guards:
                refusal = refusal_of(guard, token)
                if refusal is InvalidTokenError:
                    called_invalid.add(kid_of(token))
                elif refusal is None:
                    let_in.add(kid_of(token))

    without_limit = {"USER_ACTIONS_PER_HOUR": "1000000"}
    with (
        two_services(database_url, **without_limit) as workers,
        round_robin(workers) as url,
        ThreadPoolExecutor(1) as threads,
    ):
        service = RunningService(url, database_url)
        guards = [Guard(service.url) for _ in range(4)]
        for guard in guards:
            guard.start()
        using = threads.submit(use_fresh_tokens, service, guards)
        try:
            assert comes_true(lambda: bool(let_in))
            revoked = set(let_in)
            [kid] = revoked
            service.command("keys", "revoke", kid)
            # A login may still be signed with the revoked key: the other worker learns it next.
            assert comes_true(lambda: bool(let_in - revoked))
        finally:
            stopping.set()
            for guard in guards:
                guard.close()
        using.result()
        service.close()
    assert called_invalid <= revoked
    assert len(let_in) == 2
