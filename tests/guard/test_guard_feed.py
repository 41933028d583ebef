"""How a guard follows the feed: heartbeats, missing heartbeats, pauses, and close()."""

import socket
import ssl
import threading
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from hourpass import Guard, InvalidTokenError, ServiceUnavailableError
from hourpass.guard import outage as outage_module
from hourpass.guard import revocation_feed, service_client, verification_state
from hourpass.guard.outage import Outage
from hourpass.guard.revocation_feed import OUTAGE_NOTICED_SECONDS, WAIT_SECONDS
from hourpass.guard.service_client import HEARTBEAT_SECONDS, FeedPage
from hourpass.guard.waits import SHORT_WAITS, Waits
from hourpass.http.client import SocketClient
from hourpass.http.tls import Tls
from hourpass.http.urls import ServiceUrl
from hourpass.testing import Issuer
from tests.support.certificates import certificate
from tests.support.guards import SOON_SECONDS, comes_true, guard_messages, refusal_of
from tests.support.handmade_tokens import StillClock, Waiting, answers, guarded, page, state_of
from tests.support.running_service import RunningService

pytest_plugins = ["hourpass.testing", "tests.support.service_fixtures"]


@pytest.fixture
def clock() -> StillClock:
    return StillClock()


@pytest.fixture
def issuer(hourpass_issuer: Issuer, clock: StillClock) -> Issuer:
    hourpass_issuer.clock = clock
    return hourpass_issuer


@pytest.fixture
def waiting(issuer: Issuer) -> Iterator[Waiting]:
    waiting = Waiting(issuer)
    yield waiting
    waiting.break_off()


def seconds(number: float) -> timedelta:
    return timedelta(seconds=number)


def fresh_until(guard: Guard) -> float:
    return state_of(guard).revocations.fresh_until


def test_heartbeats_prove_that_nothing_was_missed_up_to_their_own_time(
    issuer: Issuer, clock: StillClock, waiting: Waiting
) -> None:
    guard = guarded(issuer)
    token = issuer.token()
    guard.check(token)
    answer = waiting.next()
    clock.advance(seconds(OUTAGE_NOTICED_SECONDS + 1))
    assert refusal_of(guard, token) is ServiceUnavailableError
    # Three of them, joined by a proxy: the third was sent 9 s after the question, or later.
    answer.send(b" \n ")
    assert comes_true(lambda: refusal_of(guard, token) is None)
    clock.advance(seconds(3 * HEARTBEAT_SECONDS - 1 - 0.1))
    assert refusal_of(guard, token) is None
    clock.advance(seconds(0.2))
    assert refusal_of(guard, token) is ServiceUnavailableError
    # One that arrives 90 s late proves no more than it did when it was sent.
    clock.advance(seconds(90))
    before = fresh_until(guard)
    answer.send(b" ")
    assert comes_true(lambda: fresh_until(guard) == before + HEARTBEAT_SECONDS)
    assert refusal_of(guard, token) is ServiceUnavailableError


@pytest.mark.parametrize("options", [{}, {"on_outage": "trust", "trust_for": seconds(600)}])
def test_the_time_without_an_answer_is_exact(
    issuer: Issuer, clock: StillClock, waiting: Waiting, options: dict[str, Any]
) -> None:
    guard = guarded(issuer, **options)
    token = issuer.token()
    guard.check(token)
    waiting.next()
    clock.advance(seconds(options.get("trust_for", seconds(10)).total_seconds() - 0.1))
    assert refusal_of(guard, token) is None
    clock.advance(seconds(fresh_until(guard) - clock.monotonic()))
    assert clock.monotonic() == fresh_until(guard)
    assert refusal_of(guard, token) is ServiceUnavailableError


def test_heartbeats_before_their_time_prove_nothing_of_the_future(
    issuer: Issuer, clock: StillClock, waiting: Waiting
) -> None:
    guard = guarded(issuer)
    guard.check(issuer.token())
    answer = waiting.next()
    clock.advance(seconds(1))
    answer.send(b" " * 1_000)
    now = clock.monotonic()
    assert comes_true(lambda: fresh_until(guard) == now + OUTAGE_NOTICED_SECONDS)
    clock.advance(seconds(60))
    answer.send(b" ")  # no question waits for more heartbeats than this
    answer.end()
    waiting.next()
    assert fresh_until(guard) == now + OUTAGE_NOTICED_SECONDS


def test_the_page_after_heartbeats_proves_no_more_than_they_did(
    issuer: Issuer, clock: StillClock, waiting: Waiting
) -> None:
    guard = guarded(issuer)
    token, revoked = issuer.token(), issuer.token(jti="a")
    guard.check(token)
    asked_at = clock.monotonic()
    answer = waiting.next()
    clock.advance(seconds(8))
    answer.send(b" ")
    answer.end("jti:a")
    waiting.next()
    assert fresh_until(guard) == asked_at + HEARTBEAT_SECONDS + OUTAGE_NOTICED_SECONDS
    assert refusal_of(guard, revoked) is InvalidTokenError
    assert refusal_of(guard, token) is None


def test_an_idle_guard_hears_the_heartbeats_of_a_real_service(
    shared_service: RunningService,
) -> None:
    asked: list[str] = []

    class Counting(httpx.HTTPTransport):
        def handle_request(self, request: httpx.Request) -> httpx.Response:
            asked.append(request.url.path)
            return super().handle_request(request)

    token = shared_service.new_token()
    with Guard(shared_service.url, transport=Counting) as guard:  # which closes what it creates
        guard.check(token)
        assert comes_true(lambda: asked.count("/revocations") == 2)
        asked_until = fresh_until(guard)
        assert comes_true(lambda: fresh_until(guard) > asked_until + HEARTBEAT_SECONDS - 0.5)
        shared_service.revoke(token)
        assert comes_true(lambda: refusal_of(guard, token) is InvalidTokenError)
        assert asked.count("/revocations") <= 3


def test_without_heartbeats_it_asks_for_short_waits_and_nothing_shows(
    issuer: Issuer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As behind a proxy that collects an answer before it passes it on, or with an old service."""
    monkeypatch.setattr(revocation_feed, "PLAIN_POLL_SECONDS", 0.001)
    waits: list[int] = []

    def no_heartbeats(request: httpx.Request) -> httpx.Response | None:
        waits.append(int(request.url.params["wait"]))
        if waits[-1] > HEARTBEAT_SECONDS:
            raise httpx.ReadTimeout("", request=request)
        return page([], "0")

    answers(issuer, "/revocations", no_heartbeats)
    guard = guarded(issuer)
    guard.check(issuer.token())
    assert comes_true(lambda: waits.count(WAIT_SECONDS) == 3)
    one_round = [WAIT_SECONDS, 0, *[HEARTBEAT_SECONDS] * SHORT_WAITS]
    assert waits[: 1 + 2 * len(one_round)] == [0, *one_round, *one_round]
    assert guard_messages(caplog) == []


def test_heartbeats_that_stop_are_an_outage_if_the_service_does_not_answer_either(
    issuer: Issuer, waiting: Waiting, caplog: pytest.LogCaptureFixture
) -> None:
    guard = guarded(issuer)
    guard.check(issuer.token())
    answer = waiting.next()
    broken = threading.Event()

    def away(request: httpx.Request) -> httpx.Response | None:
        if broken.is_set():
            return None
        raise httpx.ConnectTimeout("", request=request)

    answers(issuer, "/revocations", away)
    answer.send(b" ")
    answer.send(httpx.ReadTimeout(""))
    said = "The Hourpass service cannot be reached: ConnectTimeout"
    assert comes_true(lambda: guard_messages(caplog) == [said])
    broken.set()
    assert comes_true(lambda: len(guard_messages(caplog)) == 2)
    assert guard_messages(caplog)[1] == "The Hourpass service can be reached again"


def test_an_answer_that_trickles_in_is_an_outage(
    issuer: Issuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Trickle(httpx.SyncByteStream):
        def __iter__(self) -> Iterator[bytes]:
            for byte in page([], "0").content:
                time.sleep(0.002)
                yield bytes([byte])

    def trickle(_: httpx.Request) -> httpx.Response:
        return httpx.Response(200, stream=Trickle())

    answers(issuer, "/revocations", trickle)
    guard = guarded(issuer, timeout=timedelta(seconds=5))
    assert refusal_of(guard, issuer.token()) is None
    monkeypatch.setattr(service_client, "ANSWER_SECONDS", 0.01)
    guard = guarded(issuer, timeout=timedelta(seconds=0.3))
    assert refusal_of(guard, issuer.token()) is ServiceUnavailableError


def test_a_thousand_guards_come_back_at_different_times(monkeypatch: pytest.MonkeyPatch) -> None:
    longest: list[float] = []

    def uniform(lowest: float, highest: float) -> float:
        assert lowest == 0
        longest.append(highest)
        return highest

    monkeypatch.setattr(outage_module._random, "uniform", uniform)
    outage = Outage()
    for _ in range(5):
        outage.record_failure(ValueError(), fresh_for=1)
    outage.record_success()
    outage.record_failure(ValueError(), fresh_for=1)
    assert longest == [0.5, 1, 2, 2, 2, 0.5]


def test_each_outage_is_logged_when_it_begins_when_tokens_are_refused_and_when_it_ends(
    caplog: pytest.LogCaptureFixture,
) -> None:
    lines = [
        "The Hourpass service cannot be reached: ValueError",
        "Every request is refused until the Hourpass service can be reached",
        "The Hourpass service can be reached again",
    ]
    outage = Outage()
    for _ in range(2):
        caplog.clear()
        for fresh_for, logged in ((1.0, 1), (0.5, 1), (0.0, 2), (-1.0, 2)):
            outage.record_failure(ValueError(), fresh_for)
            assert guard_messages(caplog) == lines[:logged]
        outage.record_success()
        outage.record_success()
        assert guard_messages(caplog) == lines


def test_a_short_wait_is_no_longer_than_the_guard_has_time_for() -> None:
    waits = Waits()
    waits.heartbeat_missing()
    assert [waits.next_wait(longest) for longest in (30, 2, 0)] == [3, 2, 0]


@pytest.mark.parametrize("mute_server", ["http"], indirect=True)
def test_a_connection_that_is_opened_after_the_guard_was_closed_is_shut_down_at_once(
    mute_server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service_client, "ANSWER_SECONDS", SOON_SECONDS)
    url = ServiceUrl.parse(mute_server)
    late = service_client.ServiceClient(SocketClient(url, Tls(), None))
    late.interrupt()
    with pytest.raises(service_client.OutageError) as raised:
        late.issuer()
    late.close()
    assert raised.value.cause != "no answer in time"


def test_a_guard_whose_long_poll_ends_early_does_not_poll_again_at_once(
    issuer: Issuer, waiting: Waiting, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A service that stops ends the requests of all guards at the same time."""
    monkeypatch.setattr(revocation_feed, "PLAIN_POLL_SECONDS", 0.1)
    paused: list[float] = []
    has_paused = threading.Event()

    def spread(longest: float) -> float:
        if longest == revocation_feed.PLAIN_POLL_SECONDS:
            paused.append(longest)
            has_paused.set()
        return 0.0

    monkeypatch.setattr(revocation_feed, "spread", spread)
    guard = guarded(issuer)
    guard.check(issuer.token())
    answer = waiting.next()
    time.sleep(0.11)  # not a busy loop's
    answer.end()
    assert has_paused.wait(5)
    waiting.next()


class Pauses:
    """Records the pauses of a guard's thread, and shortens them."""

    def __init__(self, guard: Guard) -> None:
        self.taken: list[float] = []
        self._wait = guard._feed._closing.wait
        guard._feed._closing.wait = self._note  # type: ignore[method-assign] # a test's own guard

    def _note(self, timeout: float | None = None) -> bool:
        self.taken.append(timeout or 0)
        return self._wait(0.001)


@pytest.mark.parametrize(
    ("lasted", "pause"),
    [
        pytest.param(0.9, 1, id="not waited for"),
        pytest.param(1.1, "up to 1", id="ended early"),
        pytest.param(28.9, "up to 1", id="ended a little early"),
        pytest.param(29.1, 0, id="waited for to its end"),
    ],
)
def test_the_pause_before_the_next_request_depends_on_how_long_the_last_one_took(
    issuer: Issuer,
    clock: StillClock,
    monkeypatch: pytest.MonkeyPatch,
    lasted: float,
    pause: object,
) -> None:
    monkeypatch.setattr(revocation_feed, "time", clock)
    monkeypatch.setattr(revocation_feed, "spread", lambda longest: f"up to {longest:g}")
    follower = guarded(issuer)._feed

    def read(_: int) -> FeedPage:
        clock.advance(seconds(lasted))
        return FeedPage({}, "0", more=False)

    monkeypatch.setattr(follower, "_read", read)
    assert follower._listen() == pause


def test_a_guard_takes_no_pause_while_the_service_answers_as_it_should(
    issuer: Issuer, waiting: Waiting
) -> None:
    guard = guarded(issuer)
    pauses = Pauses(guard)
    guard.start()
    waiting.next().end("jti:a", cursor="1")
    waiting.next().send(httpx.ReadTimeout(""))  # heartbeats are missing
    waiting.next().end("jti:b", cursor="2")
    waiting.next()
    assert pauses.taken == [0] * 5


def test_a_service_with_too_many_listeners_is_asked_again_at_once_without_a_wait(
    issuer: Issuer,
) -> None:
    waits: list[str] = []

    def busy(request: httpx.Request) -> httpx.Response:
        waits.append(request.url.params["wait"])
        return httpx.Response(503) if waits[-1] != "0" else page([], "0")

    answers(issuer, "/revocations", busy)
    guard = guarded(issuer)
    pauses = Pauses(guard)
    guard.start()
    assert comes_true(lambda: len(pauses.taken) >= 4)
    assert waits[:3] == ["0", str(WAIT_SECONDS), "0"]
    assert pauses.taken[:4] == [0, 0, 0, 1]


def test_a_feed_that_is_too_long_is_asked_for_again_after_a_minute(
    issuer: Issuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verification_state, "MAX_REVOCATIONS", 1)
    answers(issuer, "/revocations", lambda _: page(["jti:a", "jti:b"], "0"))
    guard = guarded(issuer, timeout=timedelta(0))
    pauses = Pauses(guard)
    assert refusal_of(guard, issuer.token()) is ServiceUnavailableError
    guard._feed.start()
    assert comes_true(lambda: len(pauses.taken) >= 3)
    assert pauses.taken[:3] == [0, 60, 60]


def test_after_a_410_guards_start_over_at_as_many_times(
    issuer: Issuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(revocation_feed, "spread", lambda longest: 0.7 * longest)
    refused = iter([410])

    def another_feed(request: httpx.Request) -> httpx.Response | None:
        return httpx.Response(next(refused, 500)) if "after" in request.url.params else None

    answers(issuer, "/revocations", another_feed)
    guard = guarded(issuer)
    pauses = Pauses(guard)
    guard.start()
    assert comes_true(lambda: len(pauses.taken) >= 3)
    assert pauses.taken[:3] == [0, 0, 1.4]


def test_until_the_keys_are_read_again_a_guard_waits_no_longer_than_that_and_than_it_may(
    issuer: Issuer, clock: StillClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    guard = guarded(issuer)
    guard.start()
    follower = guard._feed
    waits: list[int] = []

    def read(wait: int) -> FeedPage:
        waits.append(wait)
        return FeedPage({}, "0", more=False)

    monkeypatch.setattr(follower, "_read", read)
    follower._keys_pause = 1.0
    pauses: list[float] = []
    for due_in in (0.5, 20.5, 100.0, -1.0):
        follower._keys_due_at = clock.monotonic() + due_in
        pauses.append(follower._listen())
    follower._keys_due_at = clock.monotonic() + 100
    follower._waits._plain_polls_left = 1
    pauses.append(follower._listen())
    assert waits == [0, 20, WAIT_SECONDS, 0, 0]
    assert pauses == [0.5, 1, 1, 0, 1]


def test_a_guard_is_started_once_however_many_threads_check(issuer: Issuer) -> None:
    guard = guarded(issuer)
    follower, connect = guard._feed, guard._feed._connect

    def connect_under_the_lock() -> service_client.ServiceClient:
        assert follower._changing.locked()
        return connect()

    follower._connect = connect_under_the_lock
    before = followers()
    guard.start()
    guard.start()
    assert len(followers() - before) == 1


def test_after_its_first_answer_a_guard_does_not_wait_for_the_service(
    issuer: Issuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    since_the_start = StillClock()
    monkeypatch.setattr(revocation_feed, "time", since_the_start)
    guard = guarded(issuer, timeout=seconds(5))
    guard.check(issuer.token())
    since_the_start.advance(seconds(6))
    assert refusal_of(guard, issuer.token()) is None


def test_the_startup_timeout_begins_with_the_first_request(
    issuer: Issuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    since_the_start = StillClock()
    monkeypatch.setattr(revocation_feed, "time", since_the_start)
    follower = guarded(issuer)._feed
    since_the_start.advance(seconds(60))
    assert follower.time_left(5) == 5
    follower.start()
    since_the_start.advance(seconds(2))
    assert follower.time_left(5) == 3


def test_a_caller_after_the_startup_timeout_does_not_wait(issuer: Issuer) -> None:
    guard = guarded(issuer, timeout=timedelta(0))
    waited: list[float] = []
    guard._feed._first_answer.wait = waited.append  # type: ignore[assignment] # a test's own guard
    with issuer.outage(), pytest.raises(ServiceUnavailableError):
        guard.start()
    assert waited == [0]


def test_a_guard_that_is_closed_ends_with_the_next_heartbeat_at_the_latest(
    issuer: Issuer, waiting: Waiting
) -> None:
    """Its transport has no sockets that could be shut down."""
    before = followers()
    guard = guarded(issuer)
    guard.start()
    (thread,) = followers() - before
    answer = waiting.next()
    guard.close()
    answer.send(b" ")
    assert comes_true(lambda: not thread.is_alive())


@pytest.fixture(params=["http", "https"])
def mute_server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """It answers nothing, ever."""
    context = certificate(tmp_path) if request.param == "https" else None
    with socket.create_server(("127.0.0.1", 0)) as listener:
        accepted: list[socket.socket] = []

        def accept() -> None:
            try:
                while True:
                    connection = listener.accept()[0]
                    secured = context.wrap_socket(connection, server_side=True) if context else None
                    accepted.append(secured or connection)
            except OSError:
                pass

        thread = threading.Thread(target=accept)
        thread.start()
        yield f"{request.param}://127.0.0.1:{listener.getsockname()[1]}"
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()
        for connection in accepted:
            connection.close()


def followers() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.name == "hourpass-feed"}


def test_closing_ends_the_thread_at_once_while_it_waits_for_an_answer(
    mute_server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service_client, "ANSWER_SECONDS", 60.0)  # so that it cannot end by itself
    before = followers()
    verify = tmp_path / "cert.pem" if mute_server.startswith("https") else True
    guard = Guard(mute_server, timeout=timedelta(seconds=0.1), verify=verify)
    assert refusal_of(guard, "x.y.z") is ServiceUnavailableError
    (thread,) = followers() - before
    assert thread.daemon  # or the process could not end
    of_https = mute_server.startswith("https")

    def is_connected() -> bool:
        client = guard._feed._asked()._client
        assert isinstance(client, SocketClient)
        return of_https in {isinstance(socket, ssl.SSLSocket) for socket in client._sockets}

    assert comes_true(is_connected)
    guard.close()
    assert comes_true(lambda: not thread.is_alive())


def test_closing_ends_the_thread_at_once_while_a_real_service_delays_its_answer(
    shared_service: RunningService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service_client, "ANSWER_SECONDS", 60.0)
    before = followers()
    guards = [Guard(shared_service.url) for _ in range(5)]
    for guard in guards:
        guard.start()
    assert len(followers() - before) == 5
    for guard in guards:
        guard.close()
    assert comes_true(lambda: not followers() - before)
