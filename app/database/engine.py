"""The database engine and its sessions.

SQLite and PostgreSQL behave the same for the rest of the code: foreign keys are enforced, a
committed write survives a power failure, and a writer waits for other writers instead of failing.
"""

import asyncio
import logging
import os
import sqlite3
import stat
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import datetime
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
# SQLSTATE classes that do not depend on the statement: connection exception, insufficient
# resources, object not in prerequisite state, operator intervention.
_UNAVAILABLE_SQLSTATES = ("08", "53", "55", "57")
_OUTAGES = (
    OperationalError,
    InterfaceError,
    PoolTimeoutError,
    OSError,
    sqlite3.OperationalError,
)

_log = logging.getLogger("hourpass")


def create_engine(settings: Settings) -> AsyncEngine:
    # hide_parameters: texts of errors would otherwise contain e-mail addresses and password hashes.
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
        _create_private_file(Path(engine.url.database or ""))
        event.listen(engine.sync_engine, "begin", _begin_sqlite)
    else:
        event.listen(engine.sync_engine, "checkout", _discard_closed)
        event.listen(engine.sync_engine, "handle_error", _mark_disconnected)
    return engine


def _discard_closed(connection: Any, *_: Any) -> None:
    """Let the pool replace a connection that a server or proxy closed while it was idle. The driver
    has noticed that already, so no query is needed each time (`pool_pre_ping`)."""
    if connection.driver_connection.is_closed():
        raise DisconnectionError


def _mark_disconnected(context: ExceptionContext) -> None:
    if _is_closed_by_server(context.original_exception):
        context.is_disconnect = True


def _is_closed_by_server(error: BaseException | None) -> bool:
    """Whether asyncpg rejects a connection because the server has announced its end. Compared by
    name, because asyncpg is not imported on SQLite."""
    return type(error).__name__ == "InternalClientError" or (
        error is not None and type(error.__cause__).__name__ == "InternalClientError"
    )


def _create_private_file(path: Path) -> None:
    """Create the file so that only its owner can read it: it has password hashes and keys."""
    try:
        path.touch(mode=0o600)
    except OSError as error:
        raise StartupError(f"Cannot create the database {path}: {error.strerror}.") from error


def restrict_file_access(engine: AsyncEngine) -> None:
    """Remove the access of group and others to an existing SQLite file, and log it.

    If the file has another owner or is not a regular file, it stays as it is, and the warning says
    what to do. The same applies to the files that SQLite keeps beside it. Windows has no such
    permissions.
    """
    if engine.dialect.name != "sqlite" or not hasattr(os, "geteuid"):
        return
    path = Path(engine.url.database or "").resolve()  # follows symbolic links, as SQLite does
    for suffix in ("", "-wal", "-shm", "-journal"):
        _restrict(path.with_name(path.name + suffix))


def _restrict(path: Path) -> None:
    others = stat.S_IRWXG | stat.S_IRWXO
    try:
        # Without opening the file: closing it would release all POSIX locks of this process on it.
        found = path.lstat()
        if not found.st_mode & others:
            return
        if stat.S_ISREG(found.st_mode) and found.st_uid == os.geteuid():
            path.chmod(stat.S_IMODE(found.st_mode) & stat.S_IRWXU)
            if not path.lstat().st_mode & others:  # some file systems ignore chmod
                _log.warning("Other users had access to %s. Removed it", path)
                return
    except FileNotFoundError:
        return
    except OSError:  # for example on a read-only file system
        pass
    _log.warning("Other users have access to %s, which has secrets. Run `chmod 600` on it", path)


def _begin_sqlite(connection: Connection) -> None:
    """Begin a transaction only for writes. Without one, a read sees the latest committed data, as
    on PostgreSQL, and needs three calls less to the driver's thread."""
    if begin := connection.get_execution_options().get("sqlite_begin"):
        connection.exec_driver_sql(begin)


async def begin_write(session: AsyncSession) -> None:
    """Begin a writing transaction. Ends a reading one that is open.

    Call it before every write: on SQLite, each statement would otherwise be a transaction of its
    own. It uses BEGIN IMMEDIATE, which waits for other writers. A SQLite transaction that reads
    first and then writes would fail at once if another process wrote in between.
    """
    if session.in_transaction():
        await session.commit()
    await session.connection(execution_options={"sqlite_begin": "BEGIN IMMEDIATE"})


class Database:
    """`clock` replaces the database's own clock in tests."""

    def __init__(self, settings: Settings, clock: Callable[[], datetime] | None = None) -> None:
        self.engine = create_engine(settings)
        is_file = self.engine.dialect.name == "sqlite"
        reader = sqlite_driver.Reader(self.engine.url.database or "") if is_file else None
        self._fast_queries = FastQueries(self.engine, reader)
        info = {FAST_QUERIES: self._fast_queries, CLOCK: clock}
        self._sessions = async_sessionmaker(self.engine, expire_on_commit=False, info=info)

    @asynccontextmanager
    async def session(self) -> AsyncIterator[AsyncSession]:
        """A session for one operation, which commits. Everything else is rolled back.

        Raises UnavailableError if the database cannot be reached or is overloaded.
        """
        try:
            session = self._sessions()
            try:
                yield session
            finally:
                if session.in_transaction():  # otherwise it has no connection
                    await asyncio.shield(session.close())
        except Exception as error:
            if _is_outage(error):
                raise UnavailableError from error
            raise

    async def close(self) -> None:
        await self._fast_queries.close()
        await self.engine.dispose()


def _is_outage(error: Exception) -> bool:
    """Whether an error of SQLAlchemy, or of a driver (fast_queries.py), is an outage."""
    if isinstance(error, _OUTAGES):
        return True
    cause = error.orig if isinstance(error, DBAPIError) else error
    if _is_closed_by_server(cause):
        return True
    return str(getattr(cause, "sqlstate", None))[:2] in _UNAVAILABLE_SQLSTATES


async def _session(request: Request) -> AsyncIterator[AsyncSession]:
    database: Database = request.app.state.database
    async with database.session() as session:
        yield session


SessionDep = Annotated[AsyncSession, Depends(_session)]
