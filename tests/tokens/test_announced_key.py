"""If an announced key is revoked before it signs, the current key continues to sign."""

from datetime import timedelta

import pytest

from app.context import RequestContext
from app.database.engine import Database, begin_write
from app.settings import Settings
from app.tokens.signing_keys.keys import Keyring
from app.tokens.signing_keys.store import KeyStore
from tests.support.settings import Clock, make_settings


class Keys:
    """The keys of one database."""

    def __init__(self, database: Database, settings: Settings, clock: Clock) -> None:
        self._database = database
        self._store = KeyStore(settings)
        self._clock = clock

    async def load(self) -> Keyring:
        async with self._database.session() as session:
            return await self._store.load(RequestContext(session, self._clock()))

    async def rotate(self) -> str:
        async with self._database.session() as session:
            return await self._store.rotate(RequestContext(session, self._clock()))

    async def revoke(self, kid: str) -> None:
        async with self._database.session() as session:
            await begin_write(session)
            await self._store.revoke(RequestContext(session, self._clock()), kid)
            await session.commit()

    async def kids(self) -> list[str]:
        return [key.kid for key in (await self.load()).keys]

    async def current(self) -> str:
        return (await self.load()).current(self._clock()).kid


@pytest.fixture
def settings(database_url: str) -> Settings:
    return make_settings(database_url, key_announce_seconds=600)


@pytest.fixture
def keys(database: Database, settings: Settings, clock: Clock) -> Keys:
    return Keys(database, settings, clock)


async def test_the_current_key_continues_to_sign(keys: Keys, clock: Clock) -> None:
    current = await keys.current()
    announced = await keys.rotate()
    await keys.revoke(announced)
    assert await keys.kids() == [current]
    clock.advance(timedelta(hours=1))
    assert await keys.current() == current


async def test_the_next_rotation_announces_another_one(keys: Keys, clock: Clock) -> None:
    current, announced = await keys.current(), await keys.rotate()
    await keys.revoke(announced)
    another = await keys.rotate()
    assert another not in (current, announced)
    assert await keys.current() == current
    clock.advance(timedelta(minutes=10))
    assert await keys.current() == another


async def test_a_key_that_signs_is_replaced_at_once(keys: Keys, clock: Clock) -> None:
    first, second = await keys.current(), await keys.rotate()
    clock.advance(timedelta(minutes=10))
    await keys.revoke(second)
    assert await keys.current() not in (first, second)


async def test_without_a_current_key_the_announced_one_is_replaced(keys: Keys) -> None:
    first, second = await keys.current(), await keys.rotate()
    await keys.revoke(first)
    await keys.revoke(second)
    assert await keys.current() not in (first, second)
