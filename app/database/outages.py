"""Distinguishes outages of the database from faults of the service, and describes them.

A fault of the service is a 500: a statement that the database does not understand, a value that it
cannot store, or a violated constraint. Every other error of the database is a 503.
"""

import os
import socket
import sqlite3
import ssl
from collections.abc import Iterable

from sqlalchemy.exc import DBAPIError, PendingRollbackError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from app.database.connector import OlderTimelineError, UnreachableError

# Classes of SQLSTATE that only depend on the statement and its values (PostgreSQL, appendix A).
_FAULT_CLASSES = frozenset(
    (
        *("02", "03", "07", "09", "0A", "0F", "0L", "0P", "0Z", "20", "21", "22", "23", "24", "27"),
        *("2B", "2D", "2F", "34", "38", "39", "3B", "3F", "42", "44", "54", "P0"),
    )
)
_PERMISSION = "42501"
# Exceptions of these classes: permissions, and prepared statements that a pooler has mixed up.
_NO_FAULTS = frozenset((_PERMISSION, "42P05"))
_CONFLICTS = ("40001", "40P01")  # serialization failure, deadlock
# After these, the service gives up all open connections. The classes: connection exceptions,
# transactions that are read-only or not in the state in which the service left them (a pooler or a
# failover was in between), and internal errors of the server.
_LOST = frozenset(("57P01", "57P02", "57P04", "57P05", "26000", "42P05"))
_LOST_CLASSES = ("08", "25", "XX")

_LOST_BEFORE = "8s2b"  # SQLAlchemy's code

_SQLITE_FAULTS = frozenset(
    (
        sqlite3.SQLITE_ERROR,
        sqlite3.SQLITE_CONSTRAINT,
        sqlite3.SQLITE_MISMATCH,
        sqlite3.SQLITE_MISUSE,
        sqlite3.SQLITE_RANGE,
        sqlite3.SQLITE_TOOBIG,
    )
)
_SQLITE_KEPT = frozenset((sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_FULL))

_STATES = {
    "25006": "it is read-only: a standby, or default_transaction_read_only is on",
    "28000": "it refuses the role: LOGIN is missing, or pg_hba.conf has no entry for it",
    "28P01": "the password is wrong",
    "3D000": "it does not exist",
    "53100": "its disk is full",
    "53200": "it is out of memory",
    "53300": "it has too many connections",
    "55P03": "a lock was not free in time",
    "57014": "a statement took too long",
    "57P01": "it is shutting down",
    "57P03": "it is starting or shutting down",
    "08P01": "a connection pooler does not understand the options in DATABASE_URL",
    "26000": "a connection pooler lost a prepared statement; add pgbouncer=true to DATABASE_URL",
    "42P05": "a connection pooler mixed up statements; add pgbouncer=true to DATABASE_URL",
    "40001": "a transaction was in the way of another one",
    "40P01": "a transaction was in the way of another one",
}
_SQLITE = {
    sqlite3.SQLITE_BUSY: "another process is writing to the file",
    sqlite3.SQLITE_CANTOPEN: "the file or its directory cannot be opened for writing",
    sqlite3.SQLITE_CORRUPT: "the file is damaged",
    sqlite3.SQLITE_FULL: "the disk is full",
    sqlite3.SQLITE_IOERR: "the file cannot be read or written; the disk may be full or damaged",
    sqlite3.SQLITE_NOTADB: "the file is not a SQLite database",
    sqlite3.SQLITE_PERM: "the access to the file is denied",
    sqlite3.SQLITE_READONLY: "the file or its directory is read-only",
}

_CONNECTION = {
    OlderTimelineError: "it is a former primary, with an older timeline than the current one",
    TimeoutError: "it does not answer",
    ssl.SSLCertVerificationError: "its TLS certificate is not trusted, or not for this host",
    ssl.SSLError: "TLS failed",
    socket.gaierror: "the host's name is not found",
}
_OTHERS = {
    "PendingRollbackError": "the connection was lost",
    "TimeoutError": "all connections are in use; DATABASE_POOL_SIZE sets their number",
    "TargetServerAttributeNotMatched": "no host accepts writes",
}


def is_outage(error: BaseException | None) -> bool:
    if isinstance(error, PendingRollbackError):  # used again although it was lost
        return error.code == _LOST_BEFORE
    cause = _cause(error)
    if state := _sqlstate(cause):
        return state in _NO_FAULTS or state[:2] not in _FAULT_CLASSES
    if isinstance(cause, sqlite3.Error):
        return (code := _sqlite_code(cause)) is not None and code not in _SQLITE_FAULTS
    return isinstance(cause, PoolTimeoutError | OSError) or _is_of_closed_connection(cause)


def loses_connections(error: BaseException | None) -> bool:
    """Whether no open connection is to be used again: they are silent, closed or read-only."""
    cause = _cause(error)
    if state := _sqlstate(cause):
        return state in _LOST or state[:2] in _LOST_CLASSES
    if isinstance(cause, sqlite3.Error):
        return is_outage(cause) and _sqlite_code(cause) not in _SQLITE_KEPT
    return isinstance(cause, OSError) or _is_of_closed_connection(cause)


def is_conflict(error: BaseException) -> bool:
    """Whether the same transaction may succeed when it is tried again at once."""
    return _sqlstate(_cause(error)) in _CONFLICTS


def is_permission_error(error: BaseException | None) -> bool:
    return _sqlstate(_cause(error)) == _PERMISSION


def describe(error: BaseException | None, names: Iterable[str] = ()) -> str:
    """The problem in words of ours: a driver's text may quote what must not be logged. `names` are
    those of tables. The ones that the error mentions are in the description."""
    cause = _cause(error)
    if state := _sqlstate(cause):
        if state == _PERMISSION:
            words = str(cause).replace('"', " ").split()
            return permission_problem(name for name in names if name in words)
        return _STATES.get(state, f"SQLSTATE {state}")
    if isinstance(cause, sqlite3.Error):
        code = _sqlite_code(cause)
        return _SQLITE.get(code or 0, f"{type(cause).__name__}, SQLite's code {code}")
    if isinstance(cause, OSError):
        return _describe_connection(cause)
    return _OTHERS.get(type(cause).__name__, type(cause).__name__)


def _describe_connection(error: BaseException) -> str:
    if isinstance(error, UnreachableError) and error.__cause__:
        return _describe_connection(error.__cause__)
    for kind, words in _CONNECTION.items():
        if isinstance(error, kind):
            return words
    # asyncio's texts contain the address, and it has no number for several addresses.
    number: int | None = getattr(error, "errno", None)
    return os.strerror(number).lower() if number else "it cannot be reached"


def permission_problem(tables: Iterable[str]) -> str:
    names = ", ".join(sorted(tables))
    return (
        f"its role lacks a permission on {names or 'the schema or a table'}. As the owner, run: "
        f"GRANT SELECT, INSERT, UPDATE, DELETE ON {names or 'ALL TABLES IN SCHEMA public'} TO "
        "(the role in DATABASE_URL)"
    )


def _cause(error: BaseException | None) -> BaseException | None:
    """The driver's error."""
    if isinstance(error, DBAPIError):
        error = error.orig
    # SQLAlchemy has an error of its own between its DBAPIError and that of asyncpg.
    if error is not None and _is_adapted(error) and error.__cause__ is not None:
        return error.__cause__
    return error


def _is_adapted(error: BaseException) -> bool:
    return type(error).__module__.startswith("sqlalchemy.dialects.")


def _sqlstate(error: BaseException | None) -> str:
    return str(getattr(error, "sqlstate", None) or "")


def _sqlite_code(error: sqlite3.Error) -> int | None:
    """The primary result code, or None if the error is not SQLite's but of the Python module."""
    code: int | None = getattr(error, "sqlite_errorcode", None)
    return None if code is None else code & 0xFF


def _is_of_closed_connection(error: BaseException | None) -> bool:
    """Compared by name, because asyncpg is not imported on SQLite. Its DataError is an
    InterfaceError too, but a fault of the service."""
    kinds = [kind.__name__ for kind in type(error).__mro__]
    return "DataError" not in kinds and bool(
        {"InterfaceError", "InternalClientError", "TargetServerAttributeNotMatched"} & set(kinds)
    )
