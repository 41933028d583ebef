"""The database: engine, sessions, naming of constraints, times in UTC. Knows no table.

SQLite and PostgreSQL behave alike to the rest of the code: foreign keys are enforced, an
acknowledged write survives a power cut, and a writer waits for its turn instead of failing.
"""

import asyncio
import logging
import os
import sqlite3
import stat
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Annotated, Any

from fastapi import Depends, Request
from sqlalchemy import event, make_url
from sqlalchemy.engine import Connection, ExceptionContext
from sqlalchemy.exc import DBAPIError, DisconnectionError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import (
    AsyncEngine,
    AsyncSession,
    async_sessionmaker,
    create_async_engine,
)

from app.database import sqlite_driver
from app.database.fast_queries import CLOCK, FAST_QUERIES, FastQueries
from app.errors import StartupError, UnavailableError
from app.settings import Settings

BUSY_TIMEOUT_SECONDS = 30
CONNECT_TIMEOUT_SECONDS = 5
# SQLSTATE classes by which PostgreSQL turns a client away, whatever it asked for: connection,
# insufficient resources, not in the required state, operator intervention.
_UNAVAILABLE_SQLSTATES = ("08", "53", "55", "57")
_OUTAGES = (
    OperationalError,
    InterfaceError,
    PoolTimeoutError,
    OSError,
    sqlite3.OperationalError,
)

_log = logging.getLogger("hourpass")


def utc_now() -> datetime:
    return datetime.now(UTC)


def create_engine(settings: Settings) -> AsyncEngine:
    # hide_parameters: an error's text would otherwise carry e-mail addresses and password hashes.
    options: dict[str, Any] = {
        "pool_size": settings.database_pool_size,
        "max_overflow": 0,
        "hide_parameters": True,
    }
    if settings.database_url.startswith("sqlite"):
        path = make_url(settings.database_url).database or ""
        options["async_creator"] = partial(sqlite_driver.connect, path, BUSY_TIMEOUT_SECONDS)
    else:
        options["connect_args"] = {"timeout": CONNECT_TIMEOUT_SECONDS}
    engine = create_async_engine(settings.database_url, **options)
    if engine.dialect.name == "sqlite":
        _keep_private(Path(engine.url.database or ""))
        event.listen(engine.sync_engine, "begin", _begin_sqlite)
    else:
        event.listen(engine.sync_engine, "checkout", _refuse_closed)
        event.listen(engine.sync_engine, "handle_error", _replace_ended)
    return engine


def _refuse_closed(connection: Any, *_: Any) -> None:
    """A server or proxy may have closed an idle connection: the pool then opens another. The driver
    has noticed, so that it need not be asked over the wire each time (`pool_pre_ping`)."""
    if connection.driver_connection.is_closed():
        raise DisconnectionError


def _replace_ended(context: ExceptionContext) -> None:
    if _has_ended(context.original_exception):
        context.is_disconnect = True


def _has_ended(error: BaseException | None) -> bool:
    """How asyncpg refuses a connection of which the server has taken leave, until it is closed. By
    name: on SQLite the driver is not even imported."""
    return type(error).__name__ == "InternalClientError" or (
        error is not None and type(error.__cause__).__name__ == "InternalClientError"
    )


def _keep_private(path: Path) -> None:
    """The file holds password hashes and keys, so only its owner may read it from the start."""
    try:
        path.touch(mode=0o600)
    except OSError as error:
        raise StartupError(f"Cannot create the database {path}: {error.strerror}.") from error


def restrict_file_access(engine: AsyncEngine) -> None:
    """Take the access of group and others away from an existing SQLite file, and say so in the log.

    A file that is not ours, or no regular file, is left as it is: then the warning says what to do.
    The files that SQLite keeps beside it are treated alike. Windows has no such permissions.
    """
    if engine.dialect.name != "sqlite" or not hasattr(os, "geteuid"):
        return
    path = Path(engine.url.database or "").resolve()  # as SQLite does: a link may name the file
    for suffix in ("", "-wal", "-shm", "-journal"):
        _restrict(path.with_name(path.name + suffix))


def _restrict(path: Path) -> None:
    others = stat.S_IRWXG | stat.S_IRWXO
    try:
        # By name, without opening: to close a file gives up every lock that this process has on it.
        found = path.lstat()
        if not found.st_mode & others:
            return
        if stat.S_ISREG(found.st_mode) and found.st_uid == os.geteuid():
            path.chmod(stat.S_IMODE(found.st_mode) & stat.S_IRWXU)
            if not path.lstat().st_mode & others:  # some file systems only pretend to do it
                _log.warning("Others had access to %s. Now only its owner has", path)
                return
    except FileNotFoundError:
        return
    except OSError:  # a file system that is read-only, for example
        pass
    _log.warning("Others have access to %s, which holds secrets. Run `chmod 600` on it", path)


def _begin_sqlite(connection: Connection) -> None:
    """Only what writes needs it: like PostgreSQL's, each statement sees what is committed, and one
    that reads does without three more calls to the driver's thread."""
    if begin := connection.get_execution_options().get("sqlite_begin"):
        connection.exec_driver_sql(begin)


async def begin_write(session: AsyncSession) -> None:
    """Begin a writing transaction, stopping the reading one that may be under way.

    On SQLite a transaction that read first and then writes fails at once if another process wrote
    in between; BEGIN IMMEDIATE takes its turn in the queue instead. PostgreSQL needs nothing. Every
    write comes after this: without it each statement would be a transaction of its own there.
    """
    if session.in_transaction():
        await session.commit()
    await session.connection(execution_options={"sqlite_begin": "BEGIN IMMEDIATE"})


class Database:
    """`clock` replaces the database's own clock, so that tests can move the time."""

    def __init__(self, settings: Settings, clock: Callable[[], datetime] | None = None) -> None:
        self.engine = create_engine(settings)
        is_file = self.engine.dialect.name == "sqlite"
        reader = sqlite_driver.Reader(self.engine.url.database or "") if is_file else None
        self._fast_queries = FastQueries(self.engine, reader)
        info = {FAST_QUERIES: self._fast_queries, CLOCK: clock}
        self._sessions = async_sessionmaker(self.engine, expire_on_commit=False, info=info)

    @asynccontextmanager
    async def session(self) -> AsyncIterator[AsyncSession]:
        """A session for one piece of work. Verbs commit; what was not committed is rolled back.

        Raises UnavailableError when the database cannot be reached or is overloaded.
        """
        try:
            session = self._sessions()
            try:
                yield session
            finally:
                if session.in_transaction():  # else it holds no connection
                    await asyncio.shield(session.close())
        except Exception as error:
            if _is_outage(error):
                raise UnavailableError from error
            raise

    async def close(self) -> None:
        await self._fast_queries.close()
        await self.engine.dispose()


def _is_outage(error: Exception) -> bool:
    """As SQLAlchemy says it, or a driver that was asked without it (direct.py)."""
    if isinstance(error, _OUTAGES):
        return True
    cause = error.orig if isinstance(error, DBAPIError) else error
    if _has_ended(cause):
        return True
    return str(getattr(cause, "sqlstate", None))[:2] in _UNAVAILABLE_SQLSTATES


async def _session(request: Request) -> AsyncIterator[AsyncSession]:
    database: Database = request.app.state.database
    async with database.session() as session:
        yield session


SessionDep = Annotated[AsyncSession, Depends(_session)]
