"""A guard says whether it can check tokens, and connects before the first request."""

from datetime import timedelta

import httpx
import pytest
from fastapi import FastAPI

from hourpass import Guard, ServiceUnavailableError
from hourpass.testing import Issuer
from tests.support.servers import served
from tests.support.waiting import until

pytest_plugins = ["hourpass.testing"]


@pytest.fixture
def guard(hourpass_issuer: Issuer) -> Guard:
    guard = Guard("https://hourpass.example")
    hourpass_issuer.attach(guard)
    return guard


async def test_a_guard_is_ready_once_it_is_connected(guard: Guard) -> None:
    assert not guard.is_ready
    guard.connect()
    await until(lambda: guard.is_ready)


async def test_a_guard_starts_without_blocking_the_event_loop(guard: Guard) -> None:
    await guard.astart()
    assert guard.is_ready
    guard.close()
    assert not guard.is_ready


async def test_a_guard_without_a_service_does_not_start(
    guard: Guard, hourpass_issuer: Issuer
) -> None:
    guard.timeout = 0.1
    with hourpass_issuer.outage(), pytest.raises(ServiceUnavailableError):
        await guard.astart()


async def test_a_guard_is_not_ready_while_it_refuses_all_tokens(
    guard: Guard, hourpass_issuer: Issuer
) -> None:
    await guard.astart()
    hourpass_issuer.clock.advance(timedelta(seconds=10))
    assert not guard.is_ready


async def test_the_guard_of_a_protected_app_connects_when_the_app_starts(guard: Guard) -> None:
    app = FastAPI()
    guard.protect(app, public=["/readyz"])
    app.add_api_route("/readyz", lambda: guard.is_ready)
    with served(app) as url:
        async with httpx.AsyncClient(base_url=url) as client:
            await until(lambda: guard.is_ready)
            assert (await client.get("/readyz")).json() is True
