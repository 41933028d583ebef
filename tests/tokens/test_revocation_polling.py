"""How a worker polls PostgreSQL, and how long requests wait for that. Needs no database."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from app.database.sqlite_driver import SqliteConnector
from app.tokens.revocations import cache
from app.tokens.revocations.cache import PostgresRevocationCache


class Engine:
    """Records what happens to its connections, and the pauses."""

    def __init__(self) -> None:
        self.done: list[object] = []
        self.timeline: str | None = None

    @asynccontextmanager
    async def connect(self) -> AsyncIterator[Any]:
        self.done.append("connect")
        yield self

    async def get_raw_connection(self) -> Any:
        return type("Raw", (), {"driver_connection": self})

    async def invalidate(self) -> None:
        self.done.append("invalidate")

    async def dispose(self) -> None:
        self.done.append("dispose")


async def test_it_polls_thirty_times_a_second_and_after_an_error_a_second_later(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    engine: Any = Engine()
    known = PostgresRevocationCache(engine, SqliteConnector("", 1))
    stopping = asyncio.Event()
    failures = iter([None, OSError("gone"), OSError("gone again")])

    async def poll(driver: Any) -> None:
        assert driver is engine
        engine.done.append("poll")
        if error := next(failures, None):
            raise error
        if engine.done.count("poll") == 5:
            stopping.set()

    async def wait(*arguments: Any) -> bool:
        engine.done.append(arguments[-1])
        return False

    monkeypatch.setattr(known, "_poll", poll)
    monkeypatch.setattr("app.tokens.revocations.cache.asyncio.sleep", wait)
    monkeypatch.setattr(cache, "wait_or_stop", wait)
    await known.follow(stopping)
    assert engine.done == [
        *("connect", "poll", 0.033, "poll", "invalidate", 1.0),
        *("connect", "poll", "invalidate", 1.0),
        *("connect", "poll", 0.033, "poll", 0.033, "invalidate", "dispose"),
    ]
    problem = "Cannot poll revocations"
    assert caplog.messages == [problem, f"Works again: {problem}"]


async def test_a_standby_makes_requests_replace_their_connections_too() -> None:
    connector = SqliteConnector("", 1)
    engine: Any = Engine()
    before = connector.discarded_at

    class Standby:
        async def fetchrow(self, *_: object, **__: object) -> tuple[str, int, int, bool]:
            return "0123456789abcdef", 0, 0, True

    with pytest.raises(cache._StandbyError):
        await PostgresRevocationCache(engine, connector)._poll(Standby())
    assert connector.discarded_at > before


async def test_it_disconnects_from_a_former_primary(monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection of a request has found a server with a newer timeline."""
    former, current = "7/00000001", "7/00000002"
    engine: Any = Engine()
    engine.timeline = former
    connector = SqliteConnector("", 1)
    connector.timeline = former
    known = PostgresRevocationCache(engine, connector)
    stopping = asyncio.Event()

    async def poll(driver: Any) -> None:
        engine.done.append(driver.timeline)
        if driver.timeline == current:
            stopping.set()
        connector.timeline = current

    async def invalidate() -> None:
        engine.timeline = current  # of the next connection

    monkeypatch.setattr(known, "_poll", poll)
    monkeypatch.setattr(engine, "invalidate", invalidate)
    await known.follow(stopping)
    assert engine.done == ["connect", former, "connect", current, "dispose"]


@pytest.mark.parametrize(
    ("round_trip", "fresh_for"), [(0.001, 0.1), (0.02, 0.1), (0.075, 0.1995), (0.9, 0.2)]
)
async def test_a_result_is_fresh_until_the_next_one_arrives_from_a_distant_server(
    monkeypatch: pytest.MonkeyPatch, round_trip: float, fresh_for: float
) -> None:
    now = 1_000.0
    monkeypatch.setattr(cache, "monotonic", lambda: now)

    class Distant:
        async def fetchrow(self, *_: object, **__: object) -> tuple[str, int, str, bool]:
            nonlocal now
            now += round_trip
            return "", 0, "", False

    engine: Any = Engine()
    known = PostgresRevocationCache(engine, SqliteConnector("", 1))
    monkeypatch.setattr(known, "_first_missing", lambda _: None)
    await known._poll(Distant())
    for age, is_fresh in ((fresh_for - 0.001, True), (fresh_for + 0.001, False)):
        now = 1_000.0 + age
        assert known.is_fresh() == is_fresh
    assert await known.wait_until_fresh(asked_at=1_000.0 + fresh_for - 0.001)


@pytest.mark.parametrize(
    ("fresh_after", "is_fresh"), [(0.0, True), (0.9, True), (5.0, False)], ids=str
)
async def test_a_request_waits_a_second_at_most_for_the_next_poll(
    monkeypatch: pytest.MonkeyPatch, fresh_after: float, is_fresh: bool
) -> None:
    engine: Any = Engine()
    known = PostgresRevocationCache(engine, SqliteConnector("", 1))
    now = began = 1_000.0

    async def sleep(seconds: float) -> None:
        nonlocal now
        now += seconds

    monkeypatch.setattr(cache, "monotonic", lambda: now)
    monkeypatch.setattr("app.tokens.revocations.cache.asyncio.sleep", sleep)
    monkeypatch.setattr(known, "is_fresh", lambda: now - began >= fresh_after)
    assert await known.wait_until_fresh(began) == is_fresh
    waited = min(fresh_after, 1.0)
    assert waited <= now - began <= waited + 2 * cache.POLL_SECONDS


async def test_a_result_from_a_tenth_of_a_second_before_a_request_is_used_unless_it_was_invalidated(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    engine: Any = Engine()
    known = PostgresRevocationCache(engine, SqliteConnector("", 1))
    monkeypatch.setattr(known, "is_fresh", lambda: False)
    now = 1_000.0
    monkeypatch.setattr(cache, "monotonic", lambda: now)

    async def sleep(_: float) -> None:
        nonlocal now
        now += 2

    monkeypatch.setattr("app.tokens.revocations.cache.asyncio.sleep", sleep)
    known._queried_at = 1_000.0
    assert await known.wait_until_fresh(asked_at=1_000.05)
    assert not await known.wait_until_fresh(asked_at=1_000.15)
    now = 1_000.0
    known.invalidate()
    assert not await known.wait_until_fresh(asked_at=1_000.05)
