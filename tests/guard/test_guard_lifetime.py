"""Guards and clients in threads, event loops, forks and pickles, from creation to end."""

import asyncio
import gc
import pickle
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import httpx
import httpx2
import pytest
import trio

from hourpass import Guard, HourpassAuth, InvalidTokenError, ServiceUnavailableError
from hourpass.guard import verification_state
from hourpass.guard.revocation_feed import OUTAGE_NOTICED_SECONDS
from hourpass.testing import Issuer, feed
from tests.support.guards import comes_true, fast_garbage_collection, refusal_of
from tests.support.handmade_tokens import guarded
from tests.support.issuer_server import serving_issuer
from tests.support.processes import environment
from tests.support.servers import FINE, Api, always


@pytest.fixture(autouse=True, scope="module")
def frequent_heartbeats() -> Iterator[None]:
    """The thread of a dropped guard ends at the next heartbeat."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(feed, "HEARTBEAT_SECONDS", 0.1)
        yield


@pytest.fixture(scope="module")
def issuer() -> Issuer:
    return Issuer()


@pytest.fixture(scope="module")
def url(issuer: Issuer) -> Iterator[str]:
    with serving_issuer(issuer) as url:
        yield url


def feeds() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.name == "hourpass-feed"}


@pytest.mark.parametrize("is_in_a_cycle", [False, True])
def test_a_guard_that_is_dropped_ends_its_thread(
    issuer: Issuer, url: str, *, is_in_a_cycle: bool
) -> None:
    before = feeds()
    with fast_garbage_collection():
        guard = Guard(url)
        guard.check(issuer.token())
        (thread,) = feeds() - before
        if is_in_a_cycle:
            guard.app = guard  # type: ignore[attr-defined] # as an app that refers to itself
        del guard
        gc.collect()
        assert comes_true(lambda: not thread.is_alive())


def test_a_guard_that_is_in_use_is_not_dropped(issuer: Issuer, url: str) -> None:
    with fast_garbage_collection():
        check = Guard(url).check
        check(issuer.token())
        gc.collect()
        assert check(issuer.token()).id == 1


def test_without_threads_a_guard_is_unavailable_until_there_are_some(
    hourpass_issuer: Issuer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    guard = guarded(hourpass_issuer)
    with monkeypatch.context() as patch:

        def start(_: threading.Thread) -> None:
            raise RuntimeError("can't start new thread")

        patch.setattr(threading.Thread, "start", start)
        assert refusal_of(guard, hourpass_issuer.token()) is ServiceUnavailableError
    assert "No thread can be started" in caplog.text
    assert refusal_of(guard, hourpass_issuer.token()) is None


def test_time_asleep_counts(hourpass_issuer: Issuer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that sleeps does not hear of revocations. The clock of time.monotonic() stands
    still meanwhile, on Linux."""
    guard = guarded(hourpass_issuer)
    token = hourpass_issuer.token()
    system = Guard("https://hourpass.example").clock
    guard._checker._clock = guard._feed._clock = system
    guard.check(token)
    slept = OUTAGE_NOTICED_SECONDS + 1
    boottime = time.clock_gettime

    def later(clock: int) -> float:
        return boottime(clock) + (slept if clock == time.CLOCK_BOOTTIME else 0)

    monkeypatch.setattr(time, "clock_gettime", later)
    assert refusal_of(guard, token) is ServiceUnavailableError


PROGRAM = """
import os, sys, httpx
sys.modules["fastapi"] = None  # its import would take most of the time
from hourpass import Guard, HourpassAuth, ServiceUnavailableError

url, token = sys.argv[1:]
shared = httpx.HTTPTransport(verify=False)
by_factory = Guard(url, transport=lambda: httpx.HTTPTransport(verify=False))
by_instance = Guard(url, transport=shared)
plain, dropped = Guard(url), Guard(url)
guards = [plain, by_factory, by_instance]
auth = HourpassAuth(url, "lancelot", "secret", transport=shared)

for guard in guards:
    assert guard.check(token).id == 1
dropped.check(token)
del dropped
before = auth.token()
child = os.fork()
if child == 0:
    for guard in (plain, by_factory):
        assert guard.check(token).id == 1
    by_instance.timeout = 0.2
    for refused in (lambda: by_instance.check(token), auth.token):
        try:
            refused()
        except ServiceUnavailableError:
            pass
        else:
            raise AssertionError("the transport was shared")
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
assert auth.token() == before
for guard in guards:
    assert guard.check(token).id == 1
"""


def test_a_forked_child_has_its_own_connections_and_shares_no_transport(
    issuer: Issuer, url: str
) -> None:
    ran = subprocess.run(
        [sys.executable, "-c", PROGRAM, url, issuer.token()],
        env=environment(PYTHONPATH=":".join(filter(None, sys.path))),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    assert "transport= belongs to the parent process" in ran.stderr


class Noting(httpx.HTTPTransport):
    """Notes that it was closed."""

    def __init__(self) -> None:
        super().__init__(verify=False)
        self.is_closed = False

    def close(self) -> None:
        self.is_closed = True
        super().close()


def test_a_transport_that_was_given_stays_open_and_a_created_one_does_not(
    issuer: Issuer, url: str
) -> None:
    created: list[Noting] = []

    def create() -> Noting:
        created.append(Noting())
        return created[-1]

    with Noting() as given:
        for transport in (given, create):
            with Guard(url, transport=transport) as guard:
                guard.check(issuer.token())
            HourpassAuth(url, "lancelot", "secret", transport=transport).token()
        assert comes_true(lambda: [made.is_closed for made in created] == [True, True])
        assert not given.is_closed


def test_a_pickled_guard_keeps_what_it_needs_to_connect() -> None:
    guard = Guard(
        "https://hourpass.example", transport=httpx.HTTPTransport, proxy="http://proxy.example"
    )
    copy = pickle.loads(pickle.dumps(guard))
    assert (copy.transport, copy._proxy) == (httpx.HTTPTransport, guard._proxy)


def in_asyncio(function: Any, *arguments: Any) -> Any:
    return asyncio.run(function(*arguments))


loops = pytest.mark.parametrize("run", [in_asyncio, trio.run])


@loops
def test_checks_wait_for_the_first_answer_in_each_event_loop(
    issuer: Issuer, url: str, run: Any
) -> None:
    async def check(guard: Guard) -> str:
        async with guard:
            return (await guard.acheck(issuer.token())).username

    async def check_at_once(guard: Guard) -> str:
        return (await guard.acheck(issuer.token())).username

    assert run(check, Guard(url)) == "lancelot"
    guard = Guard(url)
    with ThreadPoolExecutor() as pool:  # a loop in each of its threads
        asked = [pool.submit(run, check_at_once, guard) for _ in range(8)]
        assert {each.result() for each in asked} == {"lancelot"}
    guard.close()


@loops
def test_a_client_logs_in_in_each_event_loop(url: str, run: Any) -> None:
    async def call(api: str) -> list[int]:
        async with (
            HourpassAuth(url, "lancelot", "secret") as auth,
            httpx2.AsyncClient(auth=auth, verify=False) as client,
        ):
            assert await auth.atoken()
            return [(await client.get(api)).status_code for _ in range(2)]

    with Api(always(FINE)) as api:
        assert run(call, api.url) == [200, 200]
    assert len({request.authorization for request in api.received}) == 1


@loops
def test_a_check_that_is_canceled_leaves_the_guard_in_order(
    hourpass_issuer: Issuer, run: Any
) -> None:
    guard = guarded(hourpass_issuer, timeout=timedelta(seconds=30))
    token = hourpass_issuer.token()

    async def cancel_in_trio() -> None:
        with trio.move_on_after(0.05):
            await guard.acheck(token)

    async def cancel_in_asyncio() -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await guard.acheck(token)

    with hourpass_issuer.outage():
        run(cancel_in_trio if run is trio.run else cancel_in_asyncio)
    assert guard.check(token).id == 1


def test_in_trio_the_middleware_is_refused_with_a_clear_line(url: str) -> None:
    async def app(*_: Any) -> None: ...

    protected: Any = Guard(url).middleware(app)
    with pytest.raises(RuntimeError, match="needs asyncio; in trio, use"):
        trio.run(protected, {"type": "lifespan"}, app, app)


def test_evicting_tokens_does_not_race_with_checks(
    hourpass_issuer: Issuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Threads that look up, add, evict and drop the same few tokens."""
    monkeypatch.setattr(verification_state, "MAX_REMEMBERED", 3)
    guard = guarded(hourpass_issuer)
    tokens = [hourpass_issuer.token(user_id=number) for number in range(1, 7)]
    revoked = hourpass_issuer.token(jti="revoked")
    guard.check(revoked)
    hourpass_issuer.publish("jti:revoked")
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)

    def check_all() -> int:
        for _ in range(20):
            for number, token in enumerate(tokens, 1):
                assert guard.check(token).id == number
            with pytest.raises(InvalidTokenError):
                guard.check(revoked)
        return 1

    try:
        with ThreadPoolExecutor(8) as pool:
            assert sum(pool.map(lambda _: check_all(), range(8))) == 8
    finally:
        sys.setswitchinterval(interval)
