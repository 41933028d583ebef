"""HourpassAuth keeps a program logged in for a day, with few logins, and logs it out."""

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import httpx
import pytest

from hourpass import HourpassAuth, LoginError
from hourpass.client.token_source import OUTAGE_PAUSE, RENEWAL_MARGIN
from tests.support.http_clients import CALLS, Call, Court, by_httpx, settle, token_of

pytest_plugins = ["tests.support.client_fixtures"]

every_library = pytest.mark.parametrize("call", CALLS)

HOUR = timedelta(hours=1)
SECOND = timedelta(seconds=1)
# A job's step: at every other one its token is in the last minutes.
STEP = timedelta(minutes=28)


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
    async with httpx.AsyncClient(auth=auth, verify=False) as client:
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
    async with httpx.AsyncClient(auth=auth, verify=False) as client:
        await client.get(f"{court.url}/me")
        await client.post(f"{court.url}/revoke", data={"token": token_of(auth)})
        answers = await asyncio.gather(*(client.get(f"{court.url}/me") for _ in range(50)))
    assert {answer.status_code for answer in answers} == {200}
    assert court.line.grants() == ["password", "password"]


async def test_all_who_wait_for_a_login_hear_of_its_failure(court: Court) -> None:
    auth = court.auth(password="guinevere")
    async with httpx.AsyncClient(auth=auth, verify=False) as client:
        calls = (client.get(f"{court.url}/me") for _ in range(50))
        failures = await asyncio.gather(*calls, return_exceptions=True)
    assert {type(failure) for failure in failures} == {LoginError}
    assert court.line.grants() == ["password"]


async def test_a_cancelled_task_takes_nothing_with_it(court: Court) -> None:
    auth = court.auth()
    async with httpx.AsyncClient(auth=auth, verify=False) as client:
        first = asyncio.create_task(client.get(f"{court.url}/me"))
        second = asyncio.create_task(client.get(f"{court.url}/me"))
        async with asyncio.timeout(10):
            while not auth._tokens._renewal:  # noqa: ASYNC110 - nothing tells us
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
    court.clock.advance(HOUR - RENEWAL_MARGIN * SECOND)
    answer = by_httpx(auth, "GET", f"{court.url}/me")
    assert answer.request.headers["Authorization"] == f"Bearer {old}"
    settle(auth)
    assert token_of(auth) != old
    assert court.line.grants() == ["password", "password"]


def test_a_session_that_was_ended_is_followed_by_another(court: Court) -> None:
    auth = court.auth(scopes=["offline_access"])
    by_httpx(auth, "GET", f"{court.url}/me")
    held = auth._tokens._held
    assert held
    court.service.post("/revoke", data={"token": held.refresh_token or ""})
    assert by_httpx(auth, "GET", f"{court.url}/me").status_code == 200
    assert court.line.grants() == ["password", "refresh_token", "password"]
    assert court.sessions(token_of(auth)) == 1


def test_a_lost_answer_does_not_cost_the_session(court: Court) -> None:
    """The spent refresh token is shown again within the grace that the service gives."""
    auth = court.auth(scopes=["offline_access"])
    by_httpx(auth, "GET", f"{court.url}/me")
    held = auth._tokens._held
    assert held
    court.clock.advance(HOUR)
    grant = {"grant_type": "refresh_token", "refresh_token": held.refresh_token}
    assert court.service.post("/token", data=grant).status_code == 200
    court.clock.advance(OUTAGE_PAUSE * SECOND)
    assert by_httpx(auth, "GET", f"{court.url}/me").status_code == 200
    assert court.line.grants() == ["password", "refresh_token"]


@pytest.mark.parametrize("scopes", [(), ["offline_access"]], ids=["a token", "a session"])
def test_leaving_the_block_logs_out(court: Court, scopes: Any) -> None:
    with court.auth(scopes=scopes) as auth:
        by_httpx(auth, "GET", f"{court.url}/me")
        token = token_of(auth)
    assert court.service.get(f"/token_status/{token}").status_code == 401
    other = court.service.post("/token", json=court.lancelot).json()["token"]
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
