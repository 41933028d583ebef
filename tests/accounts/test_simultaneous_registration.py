"""If several workers get many registrations of one name at once, one of them succeeds."""

import asyncio
from collections import Counter

import httpx
from sqlalchemy import select

from app.database.engine import Database
from app.users.models import User
from tests.support.markers import on_sqlite
from tests.support.service_process import two_services
from tests.support.settings import make_settings
from tests.support.users import GALAHAD

AT_ONCE = 24
SPELLINGS = ("galahad", "Galahad", "GALAHAD", "ｇａｌａｈａｄ")  # noqa: RUF001 - one name once folded


@on_sqlite
async def test_one_of_24_simultaneous_registrations_at_two_processes_succeeds(
    database_url: str,
) -> None:
    """On SQLite, where processes lock the file. test_registration.py has PostgreSQL's connections,
    for which one process is like two."""
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
    assert await ids_in(database_url) == [1, responses[0].json()["user_id"]]
    assert len({response.json()["user_id"] for response in responses}) == 1


async def ids_in(database_url: str) -> list[int]:
    database = Database(make_settings(database_url))
    async with database.session() as session:
        ids = list(await session.scalars(select(User.id).order_by(User.id)))
    await database.close()
    return ids
