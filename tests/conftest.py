"""The ground every test stands on: a migrated database of its own, an app of its own, a clock.

Each test that asks for a database runs on SQLite and on PostgreSQL. One template per database is
migrated by Alembic once, and a second one has what the first start of the service adds; each test
gets a copy.
"""

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from itertools import cycle
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI
from sqlalchemy import event
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.ext.asyncio import AsyncSession

from app.context import RequestContext
from app.database.engine import Database
from app.main import create_app
from app.settings import ROOT, Settings
from app.users.service import Users
from hourpass import Guard
from hourpass.guard.service_client import ServiceClient
from tests.support import database_templates as templates
from tests.support.authenticator import EnrolledUser, register_enrolled
from tests.support.database_templates import Postgres
from tests.support.settings import ARTHUR_ADMINISTERS, CHEAP_HASHING, Clock, make_settings
from tests.support.users import ARTHUR, GALAHAD, LANCELOT, log_in

SERVE_TIMEOUT_SECONDS = 30
# The databases to copy are of the day at which the tests' clock begins. A served process has the
# real time, at which the key must not be due for replacement, nor the audit log for its purge.
_AGELESS = {"KEY_ROTATION_DAYS": "0", "AUDIT_DAYS": "36500"}
# Ports below those that the system chooses itself, a range for each pytest worker. A second run on
# the same machine begins at another place in it.
_WORKER = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % 20
_ports = cycle(10_000 + 1_000 * _WORKER + (os.getpid() + number) % 1_000 for number in range(1_000))


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

    def note(guard: Guard) -> ServiceClient:
        started.append(guard)
        return connect(guard)

    monkeypatch.setattr(Guard, "_connect", note)
    yield
    for guard in started:
        guard.close()


@event.listens_for(Engine, "before_cursor_execute")
def refuse_writes_without_a_transaction(  # on SQLite each would be committed alone
    connection: Connection, _cursor: object, statement: str, *_: object
) -> None:
    if connection.dialect.name == "sqlite" and statement.startswith(("INSERT", "UPDATE", "DELETE")):
        driver_connection = connection.connection.driver_connection
        assert driver_connection
        assert driver_connection.in_transaction, statement


@pytest.fixture(scope="session")
def template_removal() -> Iterator[None]:
    yield
    templates.remove()


@pytest.fixture(scope="session")
def sqlite_template(template_removal: None) -> Path:  # noqa: ARG001
    """Migrated, and empty."""
    return templates.migrated_sqlite()


@pytest.fixture(scope="session")
def postgres(template_removal: None) -> Postgres:  # noqa: ARG001
    return templates.postgres()


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A database with the first signing key and with Arthur, user 1, as its only user.

    With the mark `first_start` it is migrated and empty, for tests about what a start makes. With
    `on_sqlite`, the test runs on SQLite only.
    """
    is_empty = request.node.get_closest_marker("first_start") is not None
    if request.param == "sqlite":
        sqlite: Path = request.getfixturevalue("sqlite_template")
        copy = tmp_path / "hourpass.db"
        shutil.copy(sqlite if is_empty else templates.started_sqlite(), copy)
        yield f"sqlite:///{copy}"
        return
    postgres: Postgres = request.getfixturevalue("postgres")
    name = templates.migrated_postgres() if is_empty else templates.started_postgres()
    with postgres.database(name) as url:
        yield url


# For tests of what is decided before any database is asked: refused bodies, paths, headers and
# malformed tokens. Only what reads or writes rows has to be seen on both.
on_sqlite = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)

# For tests of what waits for what: on SQLite one transaction writes at a time.
on_postgresql = pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)


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


def context_in(session: AsyncSession, app: FastAPI) -> RequestContext:
    """For operations that a test calls itself."""
    return RequestContext(session, app.state.clock())


@pytest.fixture
async def context(app: FastAPI) -> AsyncIterator[RequestContext]:
    async with app.state.database.session() as session:
        yield context_in(session, app)


@pytest.fixture
def users(app: FastAPI) -> Users:
    """For operations that only the command line offers."""
    users: Users = app.state.services.users
    return users


@pytest.fixture
async def database(settings: Settings, clock: Clock) -> AsyncIterator[Database]:
    """The database by itself: no service is running."""
    database = Database(settings, clock)
    yield database
    await database.close()


@pytest.fixture
async def arthurs_token(client: httpx.AsyncClient) -> str:
    return await log_in(client, ARTHUR)


@pytest.fixture
async def two_users(client: httpx.AsyncClient, clock: Clock) -> tuple[EnrolledUser, EnrolledUser]:
    """Lancelot and Galahad, each with a second factor and a session. For queries that name a user:
    with a single user in the database, a query without that condition gives the same result."""
    return (
        await register_enrolled(client, LANCELOT, clock),
        await register_enrolled(client, GALAHAD, clock),
    )


def free_port() -> int:
    """A port that nothing else takes before the service listens on it."""
    while True:
        port = next(_ports)
        with socket.socket() as listener, suppress(OSError):
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(("127.0.0.1", port))
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
    command = [sys.executable, "-m", "hourpass", "serve", "--port", str(port), *arguments]
    variables = environment(DATABASE_URL=database_url, **{**CHEAP_HASHING, **_AGELESS, **settings})
    process = subprocess.Popen(command, cwd=ROOT, env=variables)
    base_url = f"http://127.0.0.1:{port}"
    try:
        _wait_until_ready(process, base_url, workers)
        yield base_url
    finally:
        process.terminate()
        try:
            process.wait(SERVE_TIMEOUT_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise


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
