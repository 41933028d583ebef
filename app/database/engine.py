"""The database engine and its sessions.

SQLite and PostgreSQL behave the same for the rest of the code: foreign keys are enforced, a
committed write survives a power failure, and a writer waits for other writers instead of failing.
"""

import asyncio
import logging
import os
import stat
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import datetime
from pathlib import Path
from time import monotonic
from typing import Any

from sqlalchemy import URL, event
from sqlalchemy.engine import Connection, ExceptionContext
from sqlalchemy.exc import DisconnectionError
from sqlalchemy.ext.asyncio import (
    AsyncEngine,
    AsyncSession,
    async_sessionmaker,
    create_async_engine,
)
from sqlalchemy.pool import ConnectionPoolEntry

from app.database import outages, postgres_url, sqlite_driver, timelines
from app.database.base import Base
from app.database.connector import (
    MIGRATION_LOCK_SECONDS,
    POOL_SECONDS,
    SQLITE_LOCK_SECONDS,
    Connector,
    UnreachableError,
)
from app.database.fast_queries import CLOCK, FAST_QUERIES, FastQueries
from app.database.statement_times import StatementTimes
from app.errors import StartupError, UnavailableError
from app.settings import Settings

LOG_AGAIN_SECONDS = 10.0
_REPLACED = "replaced"  # key of what the pool keeps beside a connection and its replacement

_log = logging.getLogger("hourpass.database")


def create_engine(settings: Settings, *, limit_statements: bool = True) -> AsyncEngine:
    """`limit_statements` is False for migrations, which may take as long as they need.

    Raises StartupError if DATABASE_URL is not understood or the file cannot be created.
    """
    return _create_engine(settings, _create_connector(settings, limit_statements=limit_statements))


def _create_connector(settings: Settings, *, limit_statements: bool) -> Connector:
    if settings.database_url.startswith("sqlite"):
        path = settings.database_url.partition(":///")[2]  # a folder may have `?` in its name
        _create_private_file(Path(path))
        lock_seconds = SQLITE_LOCK_SECONDS if limit_statements else MIGRATION_LOCK_SECONDS
        return sqlite_driver.SqliteConnector(path, lock_seconds)
    from app.database import postgres_driver  # imports asyncpg

    url = postgres_url.parse(settings.database_url)
    return postgres_driver.PostgresConnector(url, limit_statements=limit_statements)


def _create_engine(settings: Settings, connector: Connector) -> AsyncEngine:
    # hide_parameters: texts of errors would otherwise contain e-mail addresses and password hashes.
    options: dict[str, Any] = {
        "pool_size": settings.database_pool_size,
        "max_overflow": 0,
        "pool_timeout": POOL_SECONDS,
        "hide_parameters": True,
    }
    if isinstance(connector, sqlite_driver.SqliteConnector):
        # The requests that have the connections may be waiting for another writer.
        options["pool_timeout"] = SQLITE_LOCK_SECONDS
        url = URL.create("sqlite+aiosqlite", database=connector.path)
        engine = create_async_engine(url, async_creator=connector.connect, **options)
        event.listen(engine.sync_engine, "begin", _begin_sqlite)
    else:
        # The connector knows the rest of the URL.
        connect_args = {"async_creator_fn": connector.connect}
        engine = create_async_engine("postgresql+asyncpg://", connect_args=connect_args, **options)
        _support_poolers(engine, connector)

    def discard_unusable(driver_connection: Any, record: ConnectionPoolEntry, *_: Any) -> None:
        """Let the pool replace a connection that a server or proxy closed while it was idle, or
        that is as old as one that failed. That needs no query each time (`pool_pre_ping`).

        Raises UnreachableError if the replacement has to be replaced as well: other requests still
        fail. The pool itself would then raise an error that says nothing.
        """
        driver = driver_connection.driver_connection
        kept = record.record_info
        assert kept is not None
        was_replaced = kept.pop(_REPLACED, False)
        if driver.is_closed() or driver.opened_at <= connector.discarded_at:
            if was_replaced:
                raise UnreachableError
            kept[_REPLACED] = True
            raise DisconnectionError

    def discard_lost(context: ExceptionContext) -> None:
        if context.connection and outages.loses_connections(context.original_exception):
            context.is_disconnect = True
            connector.discard_all()

    event.listen(engine.sync_engine, "checkout", discard_unusable)
    event.listen(engine.sync_engine, "handle_error", discard_lost)
    return engine


def _support_poolers(engine: AsyncEngine, connector: Connector) -> None:
    from app.database import postgres_driver, postgres_pooler  # import asyncpg

    assert isinstance(connector, postgres_driver.PostgresConnector)
    postgres_pooler.support(engine, connector)


def describe_url(settings: Settings) -> str:
    """The URL for the log, without secrets."""
    if settings.database_url.startswith("sqlite"):
        return settings.database_url
    return postgres_url.parse(settings.database_url).description


def warn_of_ignored_options(settings: Settings) -> None:
    if settings.database_url.startswith("sqlite"):
        return
    if names := postgres_url.parse(settings.database_url).ignored:
        _log.warning("These options of DATABASE_URL have no effect: %s", ", ".join(names))


def _create_private_file(path: Path) -> None:
    """Create the file so that only its owner can read it: it has password hashes and keys."""
    try:
        path.touch(mode=0o600)
    except OSError as error:
        raise StartupError(f"Cannot create the database {path}: {error.strerror}.") from error


def restrict_file_access(engine: AsyncEngine) -> None:
    """Remove the access of group and others to an existing SQLite file, and log it.

    The file of another application stays as it is. If the file has another owner or is not a
    regular file, it stays as it is, and the warning says what to do. The same applies to the files
    that SQLite keeps beside it. Windows has no such permissions.
    """
    if engine.dialect.name != "sqlite" or not hasattr(os, "geteuid"):
        return
    path = Path(engine.url.database or "").resolve()  # follows symbolic links, as SQLite does
    if sqlite_driver.is_foreign(path):
        return
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
        self._settings = settings
        self.connector = _create_connector(settings, limit_statements=True)
        self.engine = self.create_engine()
        is_file = self.engine.dialect.name == "sqlite"
        reader = sqlite_driver.Reader(self.engine.url.database or "") if is_file else None
        self._fast_queries = FastQueries(self.engine, self.connector, reader)
        info = {
            FAST_QUERIES: self._fast_queries,
            CLOCK: clock,
            timelines.CONNECTOR: self.connector,
        }
        self._sessions = async_sessionmaker(self.engine, expire_on_commit=False, info=info)
        self._logged: dict[str, float] = {}  # when, on the monotonic clock
        self.outages = 0  # operations that failed because of the database

    def time_statements(self) -> StatementTimes:
        """Count statements from now on. Each one then costs a microsecond more."""
        if self._fast_queries.times is None:
            self._fast_queries.times = StatementTimes()
            self._fast_queries.times.listen(self.engine.sync_engine)
        return self._fast_queries.times

    @asynccontextmanager
    async def session(self) -> AsyncIterator[AsyncSession]:
        """A session for one operation, which commits. Everything else is rolled back.

        Raises UnavailableError if the database cannot be reached, is overloaded or refuses to work.
        """
        async with self._raising_unavailable():
            session = self._sessions()
            try:
                yield session
            finally:
                if session.in_transaction():  # otherwise it has no connection
                    await asyncio.shield(session.close())

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[AsyncSession]:
        """A session for several operations in one writing transaction: their commits and rollbacks
        are those of savepoints. All is committed at the end, or rolled back by an error.

        Raises UnavailableError, as session() does.
        """
        async with self._raising_unavailable(), self.engine.connect() as connection:
            await connection.execution_options(sqlite_begin="BEGIN IMMEDIATE")
            async with (
                connection.begin(),
                self._sessions(
                    bind=connection, join_transaction_mode="create_savepoint"
                ) as session,
            ):
                yield session

    @asynccontextmanager
    async def _raising_unavailable(self) -> AsyncIterator[None]:
        try:
            yield
        except Exception as error:
            if outages.is_outage(error):
                self.outages += 1
                self._log_outage(error)
                raise UnavailableError from error
            raise

    def create_engine(self) -> AsyncEngine:
        """Another engine, with a pool of its own, that shares the connector."""
        return _create_engine(self._settings, self.connector)

    async def close(self) -> None:
        await self._fast_queries.close()
        await self.engine.dispose()

    def _log_outage(self, error: Exception) -> None:
        """The same words once in LOG_AGAIN_SECONDS: each request of an outage ends here."""
        problem = outages.describe(error, Base.metadata.tables)
        now = monotonic()
        if now < self._logged.get(problem, float("-inf")) + LOG_AGAIN_SECONDS:
            return
        self._logged[problem] = now
        level = logging.ERROR if outages.is_permission_error(error) else logging.WARNING
        _log.log(level, "The database cannot be used: %s", problem)
