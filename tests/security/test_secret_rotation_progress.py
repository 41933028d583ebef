"""How far a rotation of SECRET_KEY is: the next step, and what workers record for that."""

import asyncio
import os
import socket
from collections import Counter
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import func, select

from app.database.engine import Database, begin_write
from app.errors import UnavailableError
from app.main import create_app
from app.maintenance.secret_rotation import heartbeat
from app.maintenance.secret_rotation.encrypted_rows import (
    WHOLE_TEXT,
    SecretCount,
)
from app.maintenance.secret_rotation.heartbeat import (
    ALIVE_PERIOD,
    KEPT_FOR,
    Heartbeat,
    Worker,
    list_workers,
    record_use,
)
from app.maintenance.secret_rotation.models import KeyHolder, UsedKey
from app.maintenance.secret_rotation.service import Rotation, Step
from app.security.encryption import fingerprints
from app.settings import Settings
from tests.support.markers import on_sqlite
from tests.support.settings import Clock, make_settings

OLD = "4f1d9be07c52a68e3f90b1d27ac4850e9d6b3c71f8a2e540"
NEW = "b83c05d1e9724f6ab0d8c2537e91f46ad50c8b7e2f3914c6"
FIRST, SECOND = "camelot:11", "camelot:22"


@pytest.fixture
def names() -> dict[str, str]:
    """The fingerprints."""
    settings = make_settings("sqlite:///x.db", secret_key=f"{OLD},{NEW}")
    return dict(zip((OLD, NEW), fingerprints(settings), strict=True))


def rotating(database_url: str) -> Settings:
    return make_settings(database_url, secret_key=f"{NEW},{OLD}")


# Which step is next


def count(**by_value: int) -> SecretCount:
    return SecretCount("second factors", Counter(by_value), 0, 0, 0)


def alive(*values: str) -> tuple[Worker, ...]:
    return tuple(
        Worker(f"camelot:{number}", tuple(each.split()), timedelta())
        for number, each in enumerate(values)
    )


DAY = datetime(2026, 11, 23, tzinfo=UTC)
LATER = DAY + timedelta(days=1)


@pytest.mark.parametrize(
    ("here", "at_workers", "secrets", "used", "step"),
    [
        pytest.param("a", ["a"], {"a": 3}, {"a": DAY}, None, id="one value everywhere"),
        pytest.param("a", [], {}, {}, None, id="nothing at all"),
        pytest.param("a b", ["a"], {"a": 3}, {"a": DAY}, Step.ADD, id="a worker lacks it"),
        pytest.param("a b", ["a", "a b"], {"a": 3}, {"a": DAY}, Step.ADD, id="one of two lacks it"),
        pytest.param("a", ["a b"], {"a": 3}, {"a": DAY}, Step.ADD, id="only workers have it"),
        pytest.param("a b", ["a b"], {"a": 3}, {"a": DAY}, Step.MAKE_FIRST, id="all have it"),
        pytest.param("a b", [], {"a": 3}, {}, Step.MAKE_FIRST, id="no worker has ever started"),
        pytest.param("b a", ["a b"], {"a": 3}, {"a": DAY}, Step.MAKE_FIRST, id="one is behind"),
        pytest.param(
            "b a",
            ["a b", "b a"],
            {"a": 3, "b": 1},
            {"a": DAY, "b": LATER},
            Step.MAKE_FIRST,
            id="one of two is behind",
        ),
        pytest.param(
            "b a", ["b a"], {"a": 3}, {"a": DAY, "b": LATER}, Step.ENCRYPT, id="all encrypt with it"
        ),
        pytest.param("b a", ["b a"], {"a": 3}, {"b": DAY}, Step.ENCRYPT, id="both at the upgrade"),
        pytest.param("b a", [], {"a": 3}, {}, Step.ENCRYPT, id="without workers"),
        pytest.param(
            "b a", [], {"a": 2, "b": 1}, {"a": DAY}, Step.ENCRYPT, id="begun without workers"
        ),
        pytest.param(
            "b a", ["b a"], {"b": 3}, {"a": DAY, "b": LATER}, Step.REMOVE, id="all is encrypted"
        ),
        pytest.param(
            "a b",
            ["a b"],
            {"b": 3},
            {"a": DAY, "b": LATER},
            Step.MAKE_FIRST,
            id="back to the old order",
        ),
        pytest.param(
            "b", ["b a"], {"b": 3}, {"a": DAY, "b": LATER}, Step.REMOVE, id="a worker has the old"
        ),
        pytest.param("b", ["b"], {"b": 3}, {"a": DAY, "b": LATER}, None, id="all is done"),
        pytest.param(
            "c b a",
            ["c b a"],
            {"a": 1, "c": 1},
            {"a": DAY, "b": LATER, "c": LATER + timedelta(days=1)},
            Step.ENCRYPT,
            id="two old values",
        ),
        pytest.param("a b", ["a b"], {WHOLE_TEXT: 2}, {"a": DAY}, Step.ENCRYPT, id="one text"),
    ],
)
def test_the_next_step_is_known(
    here: str, at_workers: list[str], secrets: dict[str, int], used: dict[str, datetime], step: Step
) -> None:
    rotation = Rotation(tuple(here.split()), alive(*at_workers), (count(**secrets),), used)
    assert rotation.step is step


# What workers record


async def recorded(database: Database) -> list[tuple[str, tuple[str, ...]]]:
    async with database.session() as session:
        return [(each.name, each.fingerprints) for each in await list_workers(session)]


@pytest.mark.locked_jobs
async def test_a_worker_records_its_values_as_long_as_it_runs(
    database_url: str, clock: Clock, names: dict[str, str]
) -> None:
    settings = rotating(database_url)
    database = Database(settings, clock)
    app = create_app(settings, clock, clock)
    async with app.router.lifespan_context(app):
        async with asyncio.timeout(60):
            while not (found := await recorded(database)):
                await asyncio.sleep(0.01)
        assert found == [(f"{socket.gethostname()[:64]}:{os.getpid()}", (names[NEW], names[OLD]))]
    assert await recorded(database) == []
    await database.close()


async def test_a_worker_that_was_killed_is_forgotten(database_url: str, clock: Clock) -> None:
    settings = rotating(database_url)
    database = Database(settings, clock)
    await Heartbeat(database, settings, FIRST).beat()
    other = Heartbeat(database, settings, SECOND)
    clock.advance(ALIVE_PERIOD - timedelta(seconds=1))
    await other.beat()
    assert [name for name, _ in await recorded(database)] == [FIRST, SECOND]
    clock.advance(timedelta(seconds=1))
    assert [name for name, _ in await recorded(database)] == [SECOND]
    clock.advance(KEPT_FOR)
    await other.beat()
    async with database.session() as session:
        assert await session.scalar(select(func.count()).select_from(KeyHolder)) == 1
        (holder,) = await session.scalars(select(KeyHolder))
        assert holder.last_seen_at - holder.first_seen_at == KEPT_FOR + timedelta(seconds=1)
    await database.close()


@on_sqlite
@pytest.mark.locked_jobs
@pytest.mark.parametrize("recovers", [True, False])
async def test_a_worker_that_cannot_record_its_values_tries_again(
    database_url: str,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    *,
    recovers: bool,
) -> None:
    """When it stops, it does not wait for a database that cannot be reached."""
    monkeypatch.setattr(heartbeat, "BEAT_SECONDS", 0)
    stopping = asyncio.Event()
    calls: list[str] = []

    class Beating(Heartbeat):
        async def beat(self) -> None:
            calls.append("beat")
            if len(calls) == 3:
                stopping.set()
            if len(calls) < 3 or not recovers:
                raise UnavailableError

        async def forget(self) -> None:
            calls.append("forget")
            raise UnavailableError

    settings = rotating(database_url)
    database = Database(settings)
    await Beating(database, settings).run(stopping)
    await database.close()
    assert calls == ["beat"] * 3 + ["forget"] * recovers
    assert [record.message for record in caplog.records if record.levelname == "WARNING"] == [
        "Cannot record which values of SECRET_KEY are in use"
    ]


async def test_only_the_newest_used_values_are_kept(
    database_url: str, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A service in development may have another one at each start."""
    monkeypatch.setattr(heartbeat, "MAX_USED_KEYS", 4)
    database = Database(make_settings(database_url), clock)
    async with database.session() as session:
        for number in range(7):
            await begin_write(session)
            await record_use(session, f"{number:016}", clock())
            await record_use(session, f"{number:016}", clock() + timedelta(days=1))
            await session.commit()
            clock.advance(timedelta(seconds=1))
        kept = list(await session.scalars(select(UsedKey.fingerprint).order_by(UsedKey.used_since)))
    await database.close()
    assert kept == [f"{number:016}" for number in range(3, 7)]
