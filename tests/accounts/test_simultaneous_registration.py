"""However many register one name at once, at however many workers: one gets it."""

import asyncio
from collections import Counter

import httpx
import pytest
from sqlalchemy import select

from app.database.engine import Database
from app.users.models import User
from tests.support.service_process import two_services
from tests.support.settings import make_settings
from tests.support.users import GALAHAD

AT_ONCE = 40
SPELLINGS = ("galahad", "Galahad", "GALAHAD", "ｇａｌａｈａｄ")  # noqa: RUF001 - one name once folded


@pytest.mark.first_start
async def test_one_of_40_simultaneous_registrations_of_a_name_succeeds(
    database_url: str,
) -> None:
    people = [
        {**GALAHAD, "username": SPELLINGS[number % len(SPELLINGS)]} for number in range(AT_ONCE)
    ]
    with two_services(database_url) as urls:
        limits = httpx.Limits(max_connections=AT_ONCE)
        async with httpx.AsyncClient(limits=limits, timeout=60) as client:
            responses = await asyncio.gather(
                *(
                    # Each service gets each spelling.
                    client.post(f"{urls[number // len(SPELLINGS) % 2]}/register-user", json=person)
                    for number, person in enumerate(people)
                )
            )
    assert Counter(response.status_code for response in responses) == {201: 1, 409: AT_ONCE - 1}
    assert await ids_in(database_url) == [responses[0].json()["user_id"]]
    assert len({response.json()["user_id"] for response in responses}) == 1


async def ids_in(database_url: str) -> list[int]:
    database = Database(make_settings(database_url))
    async with database.session() as session:
        ids = list(await session.scalars(select(User.id)))
    await database.close()
    return ids
