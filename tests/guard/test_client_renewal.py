"""HourpassAuth keeps a program logged in for hours, with few logins, and logs it out."""

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import httpx
import pytest

from hourpass import HourpassAuth, LoginError
from hourpass.client.token_endpoint import OUTAGE_PAUSE
from hourpass.client.token_source import RENEWAL_MARGIN
from tests.support.http_clients import CALLS, Call, ClientService, by_httpx, settle, token_of

pytest_plugins = ["tests.support.client_fixtures"]

every_library = pytest.mark.parametrize("call", CALLS)

HOUR = timedelta(hours=1)
SECOND = timedelta(seconds=1)
# A job's step: at each one its token is in the last minutes.
STEP = timedelta(minutes=56)
CALLERS = 6  # at a time


@pytest.mark.parametrize(
    ("scopes", "first", "then"),
    [((), "password", "password"), (["offline_access"], "password", "refresh_token")],
    ids=["by password", "by refresh token"],
)
@every_library
def test_a_program_that_runs_for_hours_never_gets_a_401(
    service: ClientService, call: Call, scopes: Any, first: str, then: str
) -> None:
    auth = service.auth(scopes=scopes)
    for _ in range(4):
        answer = call(auth, "GET", f"{service.url}/me")
        assert answer.status_code == 200
        assert answer.history == []  # nor was any hidden from it
        settle(auth)
        service.clock.advance(STEP)
    assert service.transport.grants() == [first, then, then, then]


@pytest.mark.parametrize("age", [timedelta(), HOUR], ids=["at first", "when it has expired"])
async def test_concurrent_tasks_cause_one_login(service: ClientService, age: timedelta) -> None:
    auth = service.auth()
    if age:
        assert by_httpx_in_thread(auth, service)
        service.clock.advance(age)
    service.transport.sent.clear()
    async with httpx.AsyncClient(auth=auth, verify=False) as client:
        answers = await asyncio.gather(*(client.get(f"{service.url}/me") for _ in range(CALLERS)))
    assert {answer.status_code for answer in answers} == {200}
    assert service.transport.grants() == ["password"]


def by_httpx_in_thread(auth: HourpassAuth, service: ClientService) -> bool:
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(by_httpx, auth, "GET", f"{service.url}/me").result().status_code == 200


def test_concurrent_threads_and_their_event_loops_cause_one_login(service: ClientService) -> None:
    auth = service.auth()
    all_there = threading.Barrier(CALLERS)

    def work(number: int) -> int:
        all_there.wait()
        status: int = CALLS[number % len(CALLS)](auth, "GET", f"{service.url}/me").status_code
        return status

    with ThreadPoolExecutor(CALLERS) as pool:
        assert set(pool.map(work, range(CALLERS))) == {200}
    assert service.transport.grants() == ["password"]


async def test_concurrent_refused_requests_cause_one_renewal(service: ClientService) -> None:
    auth = service.auth()
    async with httpx.AsyncClient(auth=auth, verify=False) as client:
        await client.get(f"{service.url}/me")
        await client.post(f"{service.url}/revoke", data={"token": token_of(auth)})
        answers = await asyncio.gather(*(client.get(f"{service.url}/me") for _ in range(CALLERS)))
    assert {answer.status_code for answer in answers} == {200}
    assert service.transport.grants() == ["password", "password"]


async def test_all_callers_that_wait_for_a_login_get_its_error(service: ClientService) -> None:
    auth = service.auth(password="guinevere")
    async with httpx.AsyncClient(auth=auth, verify=False) as client:
        calls = (client.get(f"{service.url}/me") for _ in range(CALLERS))
        failures = await asyncio.gather(*calls, return_exceptions=True)
    assert {type(failure) for failure in failures} == {LoginError}
    assert service.transport.grants() == ["password"]


async def test_a_cancelled_task_does_not_cancel_the_login_of_others(service: ClientService) -> None:
    auth = service.auth()
    async with httpx.AsyncClient(auth=auth, verify=False) as client:
        first = asyncio.create_task(client.get(f"{service.url}/me"))
        second = asyncio.create_task(client.get(f"{service.url}/me"))
        async with asyncio.timeout(10):
            while not auth._tokens._renewal:
                await asyncio.sleep(0)
        first.cancel()
        assert (await second).status_code == 200
        with pytest.raises(asyncio.CancelledError):
            await first
    assert service.transport.grants() == ["password"]


def test_no_caller_waits_for_a_renewal_while_the_old_token_is_valid(service: ClientService) -> None:
    auth = service.auth()
    by_httpx(auth, "GET", f"{service.url}/me")
    old = token_of(auth)
    service.clock.advance(HOUR - RENEWAL_MARGIN * SECOND - SECOND)
    by_httpx(auth, "GET", f"{service.url}/me")
    settle(auth)
    assert service.transport.grants() == ["password"]
    service.clock.advance(SECOND)
    answer = by_httpx(auth, "GET", f"{service.url}/me")
    assert answer.request.headers["Authorization"] == f"Bearer {old}"
    settle(auth)
    assert token_of(auth) != old
    assert service.transport.grants() == ["password", "password"]


def test_a_program_logs_in_again_after_its_session_was_ended(service: ClientService) -> None:
    auth = service.auth(scopes=["offline_access"])
    by_httpx(auth, "GET", f"{service.url}/me")
    held = auth._tokens._held
    assert held
    service.client.post("/revoke", data={"token": held.refresh_token or ""})
    assert by_httpx(auth, "GET", f"{service.url}/me").status_code == 200
    assert service.transport.grants() == ["password", "refresh_token", "password"]
    assert service.sessions(token_of(auth)) == 1


def test_a_lost_answer_does_not_end_the_session(service: ClientService) -> None:
    """The spent refresh token is shown again within the grace that the service gives."""
    auth = service.auth(scopes=["offline_access"])
    by_httpx(auth, "GET", f"{service.url}/me")
    held = auth._tokens._held
    assert held
    service.clock.advance(HOUR)
    grant = {"grant_type": "refresh_token", "refresh_token": held.refresh_token}
    assert service.client.post("/token", data=grant).status_code == 200
    service.clock.advance(OUTAGE_PAUSE * SECOND)
    assert by_httpx(auth, "GET", f"{service.url}/me").status_code == 200
    assert service.transport.grants() == ["password", "refresh_token"]


@pytest.mark.parametrize("scopes", [(), ["offline_access"]], ids=["a token", "a session"])
def test_leaving_the_block_logs_out(service: ClientService, scopes: Any) -> None:
    with service.auth(scopes=scopes) as auth:
        by_httpx(auth, "GET", f"{service.url}/me")
        token = token_of(auth)
    assert service.client.get(f"/token_status/{token}").status_code == 401
    other = service.client.post("/token", json=service.user).json()["token"]
    assert service.sessions(other) == 0


async def test_leaving_the_async_block_logs_out(service: ClientService) -> None:
    async with httpx.AsyncClient(base_url=service.url) as client:
        async with service.auth() as auth:
            await client.get("/me", auth=auth)
            token = token_of(auth)
        answer = await client.get(f"/token_status/{token}")
    assert answer.status_code == 401


def test_closing_needs_no_service_and_is_not_the_end(service: ClientService) -> None:
    auth = service.auth()
    auth.close()
    assert service.transport.sent == []
    by_httpx(auth, "GET", f"{service.url}/me")
    service.transport.is_offline = True
    auth.close()
    service.transport.is_offline = False
    assert by_httpx(auth, "GET", f"{service.url}/me").status_code == 200
    assert service.transport.grants() == ["password", "password"]
