"""HourpassAuth keeps a program logged in, for a day and through outages, with few logins."""

import asyncio
import hashlib
import shutil
import threading
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from app.main import create_app
from hourpass import HourpassAuth, LoginError, ServiceUnavailableError
from hourpass.login import (
    LOGIN_PAUSE,
    LONGEST_PAUSE,
    OUTAGE_PAUSE,
    REFUSAL_PAUSE,
    RENEWAL_MARGIN,
    TRAVEL,
)
from tests.clients import CALLS, Call, Line, by_httpx
from tests.conftest import Clock, make_settings
from tests.people import ARTHUR, LANCELOT, Person, bearer
from tests.sockets import served

every_library = pytest.mark.parametrize("call", CALLS)

HOUR = timedelta(hours=1)
SECOND = timedelta(seconds=1)
MARGIN = RENEWAL_MARGIN * SECOND
# A job's step: at every other one its token is in the last minutes.
STEP = timedelta(minutes=28)


@dataclass
class Court:
    """A service that keeps the test's clock, a Lancelot whom no other test knows, and the line of
    his program to the service."""

    url: str
    clock: Clock
    lancelot: Person
    user_id: int
    line: Line

    def auth(
        self, password: str = LANCELOT["password"], scopes: Iterable[str] = ()
    ) -> HourpassAuth:
        """With a clock of its own that shows another time: nothing but its pace may matter."""
        began = self.clock.now

        def clock() -> float:
            return (self.clock.now - began).total_seconds()

        name = self.lancelot["username"]
        return HourpassAuth(
            self.url, name, password, scopes=scopes, clock=clock, transport=self.line
        )

    def as_arthur(self, method: str, path: str) -> None:
        token = httpx.post(f"{self.url}/token", json=ARTHUR).json()["token"]
        answer = httpx.request(method, f"{self.url}{path}", headers=bearer(token))
        assert answer.status_code == 200, answer.text

    def sessions(self, token: str) -> int:
        answer = httpx.get(f"{self.url}/me/sessions", headers=bearer(token))
        return len(answer.json()["sessions"])


@pytest.fixture(scope="module")
def service(
    sqlite_template: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, Clock]]:
    """One for all tests here, and the clock that it keeps."""
    path = tmp_path_factory.mktemp("renewal") / "hourpass.db"
    shutil.copy(sqlite_template, path)
    clock = Clock()
    settings = make_settings(
        f"sqlite:///{path}",
        first_admin_username=ARTHUR["username"],
        first_admin_password=ARTHUR["password"],
        log_level="warning",
    )
    with served(create_app(settings, clock)) as url:
        yield url, clock


@pytest.fixture
def court(service: tuple[str, Clock], request: pytest.FixtureRequest) -> Court:
    url, clock = service
    name = hashlib.sha256(request.node.name.encode()).hexdigest()[:8]
    lancelot = {**LANCELOT, "username": f"lancelot {name}"}
    answer = httpx.post(f"{url}/register-user", json=lancelot)
    assert answer.status_code == 201, answer.text
    return Court(url, clock, lancelot, answer.json()["user_id"], Line())


def token_of(auth: HourpassAuth) -> str:
    """The one it holds now."""
    held = auth._login._held
    assert held
    return held.value


def settle(auth: HourpassAuth) -> None:
    """Until a renewal in the background has come to its end."""
    deadline = time.monotonic() + 10
    while auth._login._renewal:
        assert time.monotonic() < deadline
        time.sleep(0.001)


@pytest.mark.parametrize(
    ("scopes", "first", "then"),
    [((), "password", "password"), (["offline_access"], "password", "refresh_token")],
    ids=["by password", "by refresh token"],
)
@every_library
def test_a_job_of_a_day_never_sees_a_401(
    court: Court, call: Call, scopes: Any, first: str, then: str
) -> None:
    auth = court.auth(scopes=scopes)
    for _ in range(24 * HOUR // STEP):
        answer = call(auth, "GET", f"{court.url}/me")
        assert answer.status_code == 200
        assert answer.history == []  # nor was any hidden from it
        court.clock.advance(STEP)
    renewals = court.line.grants()
    assert renewals == [first, *[then] * (len(renewals) - 1)]
    assert 24 <= len(renewals) <= 27


@pytest.mark.parametrize("age", [timedelta(), HOUR], ids=["at first", "when it has expired"])
async def test_fifty_tasks_cause_one_login(court: Court, age: timedelta) -> None:
    auth = court.auth()
    if age:
        assert by_httpx_in_thread(auth, court)
        court.clock.advance(age)
    court.line.sent.clear()
    async with httpx.AsyncClient(auth=auth) as client:
        answers = await asyncio.gather(*(client.get(f"{court.url}/me") for _ in range(50)))
    assert {answer.status_code for answer in answers} == {200}
    assert court.line.grants() == ["password"]


def by_httpx_in_thread(auth: HourpassAuth, court: Court) -> bool:
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(by_httpx, auth, "GET", f"{court.url}/me").result().status_code == 200


def test_fifty_threads_and_their_event_loops_cause_one_login(court: Court) -> None:
    auth = court.auth()
    all_there = threading.Barrier(50)

    def work(number: int) -> int:
        all_there.wait()
        status: int = CALLS[number % len(CALLS)](auth, "GET", f"{court.url}/me").status_code
        return status

    with ThreadPoolExecutor(50) as pool:
        assert set(pool.map(work, range(50))) == {200}
    assert court.line.grants() == ["password"]


async def test_fifty_refused_requests_cause_one_renewal(court: Court) -> None:
    auth = court.auth()
    async with httpx.AsyncClient(auth=auth) as client:
        await client.get(f"{court.url}/me")
        await client.post(f"{court.url}/revoke", data={"token": token_of(auth)})
        answers = await asyncio.gather(*(client.get(f"{court.url}/me") for _ in range(50)))
    assert {answer.status_code for answer in answers} == {200}
    assert court.line.grants() == ["password", "password"]


async def test_all_who_wait_for_a_login_hear_of_its_failure(court: Court) -> None:
    auth = court.auth(password="guinevere")
    async with httpx.AsyncClient(auth=auth) as client:
        calls = (client.get(f"{court.url}/me") for _ in range(50))
        failures = await asyncio.gather(*calls, return_exceptions=True)
    assert {type(failure) for failure in failures} == {LoginError}
    assert court.line.grants() == ["password"]


async def test_a_cancelled_task_takes_nothing_with_it(court: Court) -> None:
    auth = court.auth()
    async with httpx.AsyncClient(auth=auth) as client:
        first = asyncio.create_task(client.get(f"{court.url}/me"))
        second = asyncio.create_task(client.get(f"{court.url}/me"))
        async with asyncio.timeout(10):
            while not auth._login._renewal:  # noqa: ASYNC110 - nothing tells us
                await asyncio.sleep(0)
        first.cancel()
        assert (await second).status_code == 200
        with pytest.raises(asyncio.CancelledError):
            await first
    assert court.line.grants() == ["password"]


def test_nobody_waits_for_a_renewal_while_the_old_token_holds(court: Court) -> None:
    auth = court.auth()
    by_httpx(auth, "GET", f"{court.url}/me")
    old = token_of(auth)
    court.clock.advance(HOUR - MARGIN)
    answer = by_httpx(auth, "GET", f"{court.url}/me")
    assert answer.request.headers["Authorization"] == f"Bearer {old}"
    settle(auth)
    assert token_of(auth) != old
    assert court.line.grants() == ["password", "password"]


def test_an_outage_is_not_noticed_while_the_token_holds(court: Court) -> None:
    auth = court.auth()
    by_httpx(auth, "GET", f"{court.url}/me")
    court.line.is_cut = True
    court.clock.advance(HOUR - MARGIN)
    for _ in range(3):
        assert by_httpx(auth, "GET", f"{court.url}/me").status_code == 200
        settle(auth)
    assert len(court.line.sent) == 2  # and the service is not asked again at each request

    court.clock.advance(MARGIN - TRAVEL * SECOND)
    for _ in range(3):
        with pytest.raises(ServiceUnavailableError, match="ConnectError"):
            by_httpx(auth, "GET", f"{court.url}/me")
    assert len(court.line.sent) == 3

    court.line.is_cut = False
    court.clock.advance(OUTAGE_PAUSE * SECOND)
    assert by_httpx(auth, "GET", f"{court.url}/me").status_code == 200


def test_an_outage_is_logged_once(court: Court, caplog: pytest.LogCaptureFixture) -> None:
    auth = court.auth()
    by_httpx(auth, "GET", f"{court.url}/me")
    court.line.is_cut = True
    court.clock.advance(HOUR - MARGIN)
    for _ in range(3):
        by_httpx(auth, "GET", f"{court.url}/me")
        settle(auth)
        court.clock.advance(OUTAGE_PAUSE * SECOND)
    assert len(court.line.sent) == 4
    lines = [line for line in caplog.messages if "ConnectError" in line]
    assert lines == [f"No login at {court.url} (ConnectError)"]


@every_library
def test_a_disabled_user_gets_a_login_error_and_can_come_back(court: Court, call: Call) -> None:
    auth = court.auth()
    call(auth, "GET", f"{court.url}/me")
    court.as_arthur("PUT", f"/toggle-user-permission/{court.user_id}/0")
    for _ in range(3):
        with pytest.raises(LoginError):
            call(auth, "GET", f"{court.url}/me")
    assert court.line.grants() == ["password", "password"]
    court.as_arthur("PUT", f"/toggle-user-permission/{court.user_id}/1")
    court.clock.advance(LOGIN_PAUSE * SECOND)
    assert call(auth, "GET", f"{court.url}/me").status_code == 200


def test_each_refusal_of_a_token_that_held_a_while_is_answered_with_a_login(court: Court) -> None:
    auth = court.auth()
    by_httpx(auth, "GET", f"{court.url}/me")
    for _ in range(3):
        httpx.post(f"{court.url}/revoke", data={"token": token_of(auth)})
        assert by_httpx(auth, "GET", f"{court.url}/me").status_code == 200
        court.clock.advance(REFUSAL_PAUSE * SECOND)
    assert court.line.grants() == ["password"] * 4


def test_a_session_that_was_ended_is_followed_by_another(court: Court) -> None:
    auth = court.auth(scopes=["offline_access"])
    by_httpx(auth, "GET", f"{court.url}/me")
    held = auth._login._held
    assert held
    httpx.post(f"{court.url}/revoke", data={"token": held.refresh_token or ""})
    assert by_httpx(auth, "GET", f"{court.url}/me").status_code == 200
    assert court.line.grants() == ["password", "refresh_token", "password"]
    assert court.sessions(token_of(auth)) == 1


def test_a_lost_answer_does_not_cost_the_session(court: Court) -> None:
    """The spent refresh token is shown again within the grace that the service gives."""
    auth = court.auth(scopes=["offline_access"])
    by_httpx(auth, "GET", f"{court.url}/me")
    held = auth._login._held
    assert held
    court.clock.advance(HOUR)
    grant = {"grant_type": "refresh_token", "refresh_token": held.refresh_token}
    assert httpx.post(f"{court.url}/token", data=grant).status_code == 200
    court.clock.advance(OUTAGE_PAUSE * SECOND)
    assert by_httpx(auth, "GET", f"{court.url}/me").status_code == 200
    assert court.line.grants() == ["password", "refresh_token"]


@pytest.mark.parametrize("scopes", [(), ["offline_access"]], ids=["a token", "a session"])
def test_leaving_the_block_logs_out(court: Court, scopes: Any) -> None:
    with court.auth(scopes=scopes) as auth:
        by_httpx(auth, "GET", f"{court.url}/me")
        token = token_of(auth)
    assert httpx.get(f"{court.url}/token_status/{token}").status_code == 401
    other = httpx.post(f"{court.url}/token", json=court.lancelot).json()["token"]
    assert court.sessions(other) == 0


async def test_leaving_the_async_block_logs_out(court: Court) -> None:
    async with httpx.AsyncClient(base_url=court.url) as client:
        async with court.auth() as auth:
            await client.get("/me", auth=auth)
            token = token_of(auth)
        answer = await client.get(f"/token_status/{token}")
    assert answer.status_code == 401


def test_closing_needs_no_service_and_is_not_the_end(court: Court) -> None:
    auth = court.auth()
    auth.close()
    assert court.line.sent == []
    by_httpx(auth, "GET", f"{court.url}/me")
    court.line.is_cut = True
    auth.close()
    court.line.is_cut = False
    assert by_httpx(auth, "GET", f"{court.url}/me").status_code == 200
    assert court.line.grants() == ["password", "password"]


def saying(*answers: httpx.Response) -> tuple[httpx.MockTransport, list[httpx.Request]]:
    """A login service that gives these answers, the last one for ever."""
    asked: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request)
        return answers[min(len(asked), len(answers)) - 1]

    return httpx.MockTransport(answer), asked


def log_in_at(service: httpx.BaseTransport) -> None:
    use(HourpassAuth("https://login.example", "lancelot", "secret", transport=service))


def use(auth: HourpassAuth) -> None:
    """As httpx does, up to the point where the request would leave."""
    next(auth.sync_auth_flow(httpx.Request("GET", "https://api.example")))


@pytest.mark.parametrize("status", [429, 503])
def test_a_busy_service_is_asked_again_when_it_says(status: int) -> None:
    busy = httpx.Response(status, headers={"Retry-After": "0"})
    given = httpx.Response(200, json={"access_token": "a.b.c", "expires_in": 3600})
    service, asked = saying(busy, busy, given)
    log_in_at(service)
    assert len(asked) == 3


def test_a_service_that_stays_busy_is_asked_a_few_times() -> None:
    service, asked = saying(httpx.Response(503, headers={"Retry-After": "0"}))
    with pytest.raises(ServiceUnavailableError, match="busy"):
        log_in_at(service)
    assert len(asked) == 3


@pytest.mark.parametrize(("said", "kept"), [("100", 100), ("9" * 30, LONGEST_PAUSE)])
def test_a_long_wait_is_the_callers_to_know_and_is_kept_within_reason(said: str, kept: int) -> None:
    service, asked = saying(httpx.Response(429, headers={"Retry-After": said}))
    clock = Clock()
    auth = HourpassAuth(
        "https://login.example",
        "lancelot",
        "secret",
        clock=lambda: clock.now.timestamp(),
        transport=service,
    )
    for pause in (timedelta(), (kept - 1) * SECOND, SECOND):
        clock.advance(pause)
        with pytest.raises(ServiceUnavailableError, match=f"asks to wait {kept} seconds"):
            use(auth)
    assert len(asked) == 2


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(httpx.Response(200, text="<html>"), id="a page"),
        pytest.param(httpx.Response(200, json=[]), id="another JSON"),
        pytest.param(httpx.Response(200, json={"access_token": "a.b.c"}), id="no lifetime"),
        pytest.param(httpx.Response(404), id="another service"),
        pytest.param(httpx.Response(500), id="a bug"),
        pytest.param(httpx.Response(503, headers={"Retry-After": "soon"}), id="an odd wait"),
    ],
)
def test_what_is_no_answer_to_a_login_is_an_outage(answer: httpx.Response) -> None:
    service, _ = saying(answer)
    with pytest.raises(ServiceUnavailableError, match=r"https://login\.example") as raised:
        log_in_at(service)
    assert "secret" not in str(raised.value)
