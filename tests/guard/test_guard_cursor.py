"""After an outage a guard continues from its cursor. It reads the whole feed again only after a
410, and then it refuses tokens until it has read the last page."""

import shutil
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import httpx
import pytest

from hourpass import Guard, InvalidTokenError, ServiceUnavailableError
from hourpass.guard import revocation_feed, service_client
from hourpass.guard.revocation_feed import OUTAGE_NOTICED_SECONDS
from hourpass.testing import Issuer, MovableClock
from tests.support.guard_outages import (
    all_come_to,
    frequent_attempts,
    serving_at,
)
from tests.support.guards import comes_true, guard_messages, refusal_of
from tests.support.handmade_tokens import StillClock, Waiting, answers, guarded, page, state_of
from tests.support.processes import free_port

__all__ = ["frequent_attempts"]

pytest_plugins = ["hourpass.testing"]

PAGES = 100
ALL_PAGES = ["", *[f"a.{position}" for position in range(1, PAGES)]]
AWAY = "The Hourpass service cannot be reached: ReadTimeout"
BACK = "The Hourpass service can be reached again"
ANOTHER = "The service has another feed of revocations now; starting over"


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> StillClock:
    clock = StillClock()
    monkeypatch.setattr(service_client, "time", clock)  # for the time limit of each answer
    return clock


@pytest.fixture
def issuer(hourpass_issuer: Issuer, clock: StillClock) -> Issuer:
    hourpass_issuer.clock = clock
    return hourpass_issuer


@pytest.fixture(autouse=True)
def without_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(revocation_feed, "PLAIN_POLL_SECONDS", 0.001)
    monkeypatch.setattr(revocation_feed, "spread", lambda _: 0.001)


class LongFeed:
    """A page has one revocation, and each answer takes one second. Cursors are
    `history.position`."""

    def __init__(self, issuer: Issuer, clock: StillClock) -> None:
        self.history = "a"
        self.asked: list[tuple[str, float]] = []  # cursors, and when they were asked for
        self.fails_at: list[str] = []  # cursors that get no answer, once
        self.is_away = False
        self.waiting = Waiting(issuer)
        self._extra: list[str] = []
        self._clock = clock
        answers(issuer, "/revocations", self._answer)

    @property
    def cursors(self) -> list[str]:
        return [cursor for cursor, _ in self.asked]

    def publish(self, value: str) -> None:
        self._extra.append(value)

    def _answer(self, request: httpx.Request) -> httpx.Response | None:
        after = request.url.params.get("after", "")
        if self.is_away or after in self.fails_at:
            self.fails_at = [cursor for cursor in self.fails_at if cursor != after]
            raise httpx.ReadTimeout("", request=request)
        history, _, number = after.partition(".")
        if history not in ("", self.history):
            return httpx.Response(410)
        if request.url.params["wait"] != "0":
            return None
        self.asked.append((after, self._clock.monotonic()))
        self._clock.advance(timedelta(seconds=1))
        position = int(number or 0)
        values = [*(f"jti:{self.history}{n}" for n in range(PAGES)), *self._extra]
        return page(
            values[position : position + 1],
            f"{self.history}.{min(position + 1, len(values))}",
            more=position + 1 < len(values),
        )


@pytest.fixture
def long_feed(issuer: Issuer, clock: StillClock) -> Iterator[LongFeed]:
    long_feed = LongFeed(issuer, clock)
    yield long_feed
    long_feed.waiting.break_off()


def fresh_until(guard: Guard) -> float:
    return state_of(guard).revocations.fresh_until


def test_after_an_outage_a_guard_asks_only_for_what_comes_after_its_cursor(
    issuer: Issuer, clock: StillClock, long_feed: LongFeed, caplog: pytest.LogCaptureFixture
) -> None:
    guard = guarded(issuer)
    token, revoked_meanwhile = issuer.token(), issuer.token(jti="meanwhile")
    guard.check(token)
    guard.check(revoked_meanwhile)
    waiting = long_feed.waiting.next()
    long_feed.asked.clear()
    long_feed.is_away = True
    waiting.send(httpx.ReadTimeout(""))
    assert comes_true(lambda: guard_messages(caplog) == [AWAY])
    clock.advance(timedelta(seconds=OUTAGE_NOTICED_SECONDS + 1))
    assert refusal_of(guard, token) is ServiceUnavailableError
    long_feed.publish("jti:meanwhile")
    long_feed.is_away = False
    long_feed.waiting.next()
    assert long_feed.cursors == [f"a.{PAGES}"]
    assert fresh_until(guard) == long_feed.asked[0][1] + OUTAGE_NOTICED_SECONDS
    assert refusal_of(guard, token) is None
    assert refusal_of(guard, revoked_meanwhile) is InvalidTokenError
    assert guard_messages(caplog) == [AWAY, BACK]


def test_a_failed_page_does_not_make_a_guard_read_the_others_again(
    issuer: Issuer, long_feed: LongFeed, caplog: pytest.LogCaptureFixture
) -> None:
    long_feed.fails_at = ["a.30", "a.99"]
    guard = guarded(issuer)
    assert refusal_of(guard, issuer.token(jti="a0")) is InvalidTokenError
    assert refusal_of(guard, issuer.token(jti="a99")) is InvalidTokenError
    long_feed.waiting.next()
    assert long_feed.cursors == ALL_PAGES
    assert guard_messages(caplog)[0] == AWAY
    assert comes_true(lambda: guard_messages(caplog)[-1] == BACK)


def test_after_a_410_a_guard_accepts_no_token_until_it_has_read_the_last_page(
    issuer: Issuer, long_feed: LongFeed, caplog: pytest.LogCaptureFixture
) -> None:
    """However long all pages take together, there is a time limit only for each of them."""
    guard = guarded(issuer)
    token = issuer.token()
    guard.check(token)
    waiting = long_feed.waiting.next()
    long_feed.asked.clear()
    refusals = []

    def watch(_: httpx.Request) -> None:
        refusals.append(refusal_of(guard, token))

    long_feed.history = "b"
    answers(issuer, "/revocations", watch)
    waiting.end(cursor=f"a.{PAGES}")
    long_feed.waiting.next()
    assert long_feed.cursors == [cursor.replace("a", "b") for cursor in ALL_PAGES]
    assert refusals[-PAGES] is None
    assert set(refusals[1 - PAGES + int(OUTAGE_NOTICED_SECONDS) : -1]) == {ServiceUnavailableError}
    assert fresh_until(guard) == long_feed.asked[-1][1] + OUTAGE_NOTICED_SECONDS
    assert refusal_of(guard, token) is None
    for jti in ("a0", "a99", "b0", "b99"):
        assert refusal_of(guard, issuer.token(jti=jti)) is InvalidTokenError
    assert guard_messages(caplog) == [ANOTHER]


@pytest.mark.usefixtures("frequent_attempts")
def test_a_restarted_service_accepts_the_cursors_of_its_guards(
    tmp_path: Path, sqlite_template: Path
) -> None:
    asked: list[bool] = []  # of each request for revocations: whether it has a cursor

    class Recording(httpx.HTTPTransport):
        def handle_request(self, request: httpx.Request) -> httpx.Response:
            if request.url.path == "/revocations":
                asked.append("after" in request.url.params)
            return super().handle_request(request)

    database = Path(shutil.copy(sqlite_template, tmp_path / "hourpass.db"))
    port, clock = free_port(), MovableClock()
    transport = Recording()
    guard = Guard(f"http://127.0.0.1:{port}", transport=transport, clock=clock)
    with serving_at(port, database) as service:
        token, revoked = service.new_token(), service.new_token()
        service.revoke(service.new_token())
        assert all_come_to([guard], token, None)
        assert comes_true(lambda: asked == [False, True])
        service.revoke(revoked)
        assert comes_true(lambda: len(asked) >= 3)
    clock.advance(timedelta(seconds=OUTAGE_NOTICED_SECONDS))
    assert all_come_to([guard], token, ServiceUnavailableError)
    with serving_at(port, database) as service:
        assert all_come_to([guard], token, None)
        assert refusal_of(guard, revoked) is InvalidTokenError
        service.revoke(token)
        assert all_come_to([guard], token, InvalidTokenError)
    assert asked.count(False) == 1
    guard.close()
    transport.close()
