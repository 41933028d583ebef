"""Of many simultaneous guesses, as few are checked as one after another."""

import asyncio
from datetime import timedelta

import httpx
from fastapi import FastAPI
from httpx import AsyncClient

from app.database.engine import begin_write
from app.security.rate_limits import service
from app.security.rate_limits.errors import TooManyAttemptsError
from app.security.rate_limits.limits import ACCOUNT, Limit
from tests.support.apps import client_of
from tests.support.login_attempts import ELSEWHERE, HOME, WRONG, statuses
from tests.support.service_process import two_services
from tests.support.settings import Clock
from tests.support.users import GALAHAD, LANCELOT, Person, register

AT_ONCE = 20


async def test_few_of_many_simultaneous_guesses_are_checked(
    app: FastAPI, client: AsyncClient, clock: Clock
) -> None:
    async def checked(person: Person, address: str) -> int:
        async with client_of(app, address) as guesser:
            guesses = (guesser.post("/token", json=person) for _ in range(AT_ONCE))
            answers = [answer.status_code for answer in await asyncio.gather(*guesses)]
        assert answers.count(401) + answers.count(429) == AT_ONCE
        return answers.count(401)

    await register(client, LANCELOT)
    assert await checked(WRONG, HOME) == ACCOUNT.allowed
    # Earlier failures count.
    wrong = {**GALAHAD, "password": "wrong"}
    assert await statuses(app, HOME, wrong, 3) == [401] * 3
    assert await checked(wrong, ELSEWHERE) == ACCOUNT.allowed - 3
    # After each delay, there is one attempt.
    clock.advance(timedelta(seconds=1))
    assert await checked(wrong, ELSEWHERE) == 1


async def test_two_workers_together_check_no_more_guesses(database_url: str) -> None:
    with two_services(database_url) as urls:
        limits = httpx.Limits(max_connections=AT_ONCE)
        async with AsyncClient(limits=limits, timeout=60) as client:
            guesses = (client.post(f"{urls[n % 2]}/token", json=WRONG) for n in range(AT_ONCE))
            answers = [answer.status_code for answer in await asyncio.gather(*guesses)]
    assert answers.count(401) == ACCOUNT.allowed
    assert answers.count(401) + answers.count(429) == AT_ONCE


async def test_simultaneous_requests_for_mail_are_counted_one_after_another(app: FastAPI) -> None:
    async def is_allowed() -> bool:
        async with app.state.database.session() as session:
            await begin_write(session)
            try:
                await service.enforce_limit(session, "what", "who", Limit(5, timedelta(days=1)))
            except TooManyAttemptsError:
                return False
            await session.commit()
            return True

    assert await is_allowed()
    assert (await asyncio.gather(*(is_allowed() for _ in range(12)))).count(True) == 4
