"""No clock that is wrong by up to a day makes a revoked token valid again: neither this host's nor
another one's."""

import time
from datetime import UTC, datetime, timedelta

import pytest
from fastapi import FastAPI
from httpx import AsyncClient
from sqlalchemy import delete

from app.database.engine import begin_write
from app.maintenance.retention.service import Retention
from app.settings import Settings
from app.tokens.revocations import cache, feed
from app.tokens.revocations.models import Revocation
from app.users import token_cache
from tests.support.apps import started_client
from tests.support.settings import Clock
from tests.support.users import (
    ARTHUR,
    LANCELOT,
    bearer,
    becomes_invalid,
    log_in,
    register,
    revoked,
    token_is_valid,
)

HOUR = timedelta(hours=1)


class MonotonicClock:
    """Like time.monotonic(), but a test can advance it."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def __call__(self) -> float:
        return time.monotonic() + self.ahead

    def advance(self, span: timedelta) -> None:
        self.ahead += span.total_seconds()


@pytest.fixture
def monotonic(monkeypatch: pytest.MonkeyPatch) -> MonotonicClock:
    clock = MonotonicClock()
    for module in (cache, feed, token_cache):
        monkeypatch.setattr(module, "monotonic", clock)
    return clock


async def log_out_everywhere(client: AsyncClient, token: str) -> None:
    response = await client.post("/me/logout-everywhere", headers=bearer(token))
    assert response.status_code == 200


async def test_setting_the_clock_back_makes_no_expired_token_valid(
    monotonic: MonotonicClock, client: AsyncClient, clock: Clock, subtests: pytest.Subtests
) -> None:
    """The cache remembers revocations for as long as a clock may be wrong."""
    await register(client, LANCELOT)
    for back in (HOUR, 23 * HOUR):
        with subtests.test(str(back)):
            token = await log_in(client, LANCELOT)
            assert await token_is_valid(client, token)
            await log_out_everywhere(client, token)
            passed = back + timedelta(minutes=2)
            monotonic.advance(passed)
            clock.advance(passed)
            await log_out_everywhere(client, await log_in(client, ARTHUR))  # deletes old entries
            clock.advance(-back)
            assert not await token_is_valid(client, token)
            assert not await token_is_valid(client, token)


async def test_when_the_clock_was_set_the_database_is_asked_again_about_every_user(
    monotonic: MonotonicClock, app: FastAPI, client: AsyncClient, clock: Clock
) -> None:
    """However far it was set back, and even if the revocation has been deleted."""
    await register(client, LANCELOT)
    token = await log_in(client, LANCELOT)
    assert await token_is_valid(client, token)
    await log_out_everywhere(client, token)
    passed = timedelta(days=3)
    monotonic.advance(passed)
    clock.advance(passed)
    async with app.state.database.session() as session:
        await begin_write(session)
        await session.execute(delete(Revocation))
        await session.commit()
    await log_out_everywhere(client, await log_in(client, ARTHUR))
    assert len(await revoked(client)) == 1
    clock.advance(-passed)
    assert not await token_is_valid(client, token)


async def test_a_drifting_clock_counts_as_set_only_when_it_is_a_minute_off(
    app: FastAPI, client: AsyncClient, clock: Clock
) -> None:
    await register(client, LANCELOT)
    token = await log_in(client, LANCELOT)
    assert await token_is_valid(client, token)
    for drift, known in [(50, True), (20, False)]:
        clock.advance(timedelta(seconds=drift))
        answer = app.state.token_cache.check(token, clock())
        # On a busy machine the cache may not be fresh: then it does not answer.
        assert (answer is not None) == known or not app.state.revocation_cache.is_fresh()
        assert await token_is_valid(client, token)


async def test_a_host_whose_clock_is_wrong_purges_nothing_that_others_need(
    settings: Settings, client: AsyncClient, subtests: pytest.Subtests
) -> None:
    await register(client, LANCELOT)
    for wrong_by in (-20 * HOUR, 20 * HOUR):
        with subtests.test(str(wrong_by)):
            token = await log_in(client, LANCELOT)
            assert await token_is_valid(client, token)
            before = len(await revoked(client))
            wrong = Clock()
            wrong.now = datetime.now(UTC) + wrong_by
            async with started_client(settings, wrong) as elsewhere:
                for _ in range(2):  # the newest revocation is never purged
                    await log_out_everywhere(elsewhere, await log_in(elsewhere, LANCELOT))
                feed_before = await revoked(elsewhere)
                wrong.now += timedelta(minutes=10)  # past the period of the other one's lock
                database = elsewhere._transport.app.state.database  # type: ignore[attr-defined] # ASGI
                assert await Retention(database, settings).run_once()
                assert await revoked(elsewhere) == feed_before
                assert len(feed_before) == before + 2
            assert await becomes_invalid(client, token)
