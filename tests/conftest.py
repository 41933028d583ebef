"""The fixtures of most tests: a migrated database for each test, an app and a clock.

Each test that asks for a database runs on SQLite and on PostgreSQL. One template per database is
migrated by Alembic once, and a second one has what the first start of the service adds; each test
gets a copy.
"""

import asyncio
import gc
import logging
import os
import shutil
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI
from sqlalchemy import event
from sqlalchemy.engine import Connection, Engine

from app import startup
from app.context import RequestContext
from app.database.engine import Database
from app.database.job_lock import LockedJob
from app.database.outbox import OutboxWorker
from app.http import access_log
from app.main import create_app
from app.maintenance.secret_rotation.heartbeat import Heartbeat
from app.settings import Settings
from app.users.service import Users
from tests.support import compiled_statements, pooler_detection, ssl_contexts
from tests.support import database_templates as templates
from tests.support.admin_client import AdminClient
from tests.support.apps import client_of, context_in
from tests.support.authenticator import EnrolledUser, register_enrolled
from tests.support.database_templates import Postgres
from tests.support.guards import no_guard_outlives_its_test  # noqa: F401 - a fixture
from tests.support.mail_server import MailServer, mail_server
from tests.support.service_process import serving
from tests.support.settings import ARTHUR_ADMINISTERS, Clock, make_settings
from tests.support.users import ARTHUR, GALAHAD, LANCELOT, log_in

compiled_statements.share()
pooler_detection.share()
ssl_contexts.share()
logging.getLogger("httpx").setLevel(logging.WARNING)  # a line per request of a test's own client
gc.disable()  # while the tests are imported: nothing of that is garbage


def pytest_xdist_auto_num_workers() -> int:
    """Of `-n auto`: more than cores, because some tests wait, such as those of time limits."""
    return len(os.sched_getaffinity(0)) + 1


def pytest_collection_finish() -> None:
    """What was imported and collected lasts as long as the process. Searching it for garbage takes
    a second, during which no thread runs and time limits pass. An app would unfreeze it when it
    stops, so apps in this process leave the garbage collection as it is here."""
    startup._tune_garbage_collection = lambda stack: None  # noqa: ARG005 - its name
    gc.freeze()
    gc.set_threshold(10_000)
    gc.enable()


@pytest.fixture(autouse=True)
def no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the environment nor a developer's .env may change what a test sees."""
    for name in Settings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.delenv("HOURPASS_HOME", raising=False)
    monkeypatch.setenv("ENV_FILE", os.devnull)


@pytest.fixture(autouse=True)
def no_slow_jobs(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Apps of this process send nothing by themselves, nor do they delete expired rows, rotate keys
    or record the values of SECRET_KEY: that takes almost half of the time of a start. With the mark
    `locked_jobs` they do all but send."""

    async def wait(_job: object, stopping: asyncio.Event) -> None:
        await stopping.wait()

    monkeypatch.setattr(OutboxWorker, "run", wait)
    if request.node.get_closest_marker("locked_jobs") is None:
        monkeypatch.setattr(LockedJob, "run", wait)
        monkeypatch.setattr(Heartbeat, "run", wait)


@pytest.fixture(autouse=True)
def no_log_handler_outlives_its_test() -> Iterator[None]:
    """An app logs to what was standard error when it started. That of capsys is closed after the
    test."""
    yield
    root = logging.getLogger()
    root.handlers = [it for it in root.handlers if not isinstance(it, access_log._Handler)]


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
def sqlite_template(template_removal: None) -> Path:  # noqa: ARG001 - ends after this
    """Migrated, and empty."""
    return templates.migrated_sqlite()


@pytest.fixture(scope="session")
def postgres(template_removal: None) -> Postgres:  # noqa: ARG001 - as above
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
def settings(request: pytest.FixtureRequest, database_url: str) -> Settings:
    """Arthur administers. With the mark `sends_mail`, the service has a mail server, `mailbox`, and
    sends its mail when the test says so."""
    mail: dict[str, str] = {}
    if request.node.get_closest_marker("sends_mail"):
        mailbox: MailServer = request.getfixturevalue("mailbox")
        mail = {"smtp_url": mailbox.url, "mail_from": "no-reply@camelot.example"}
    return make_settings(database_url, **ARTHUR_ADMINISTERS, **mail)


@pytest.fixture
async def mailbox() -> AsyncIterator[MailServer]:
    async with mail_server() as server:
        yield server


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def app(settings: Settings, clock: Clock) -> AsyncIterator[FastAPI]:
    app = create_app(settings, clock, clock)
    async with app.router.lifespan_context(app):
        yield app


@pytest.fixture
async def client(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(app) as client:
        yield client


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
def arthur(client: httpx.AsyncClient, arthurs_token: str) -> AdminClient:
    return AdminClient(client, arthurs_token)


@pytest.fixture
async def two_users(client: httpx.AsyncClient, clock: Clock) -> tuple[EnrolledUser, EnrolledUser]:
    """Lancelot and Galahad, each with a second factor and a session. For queries that name a user:
    with a single user in the database, a query without that condition gives the same result."""
    return (
        await register_enrolled(client, LANCELOT, clock),
        await register_enrolled(client, GALAHAD, clock),
    )


@pytest.fixture
def serve(database_url: str) -> Callable[..., AbstractContextManager[str]]:
    """`with serve("--workers", "4", SECRET_KEY=…) as base_url:` on this test's database."""

    def start(*arguments: str, **settings: str) -> AbstractContextManager[str]:
        return serving(database_url, *arguments, **settings)

    return start
