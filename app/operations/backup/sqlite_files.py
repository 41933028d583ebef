"""Copies, checks and replaces SQLite files."""

import os
import sqlite3
from contextlib import closing
from datetime import datetime
from pathlib import Path
from urllib.parse import quote

from app.operations.backup.errors import BackupError
from app.operations.backup.new_file import sync_directory

SQLITE_MAGIC = b"SQLite format 3\0"
COMPANIONS = ("-wal", "-shm", "-journal")  # of a file that is open, or was not closed

_LOCK_SECONDS = 30.0
_CLOSE_SECONDS = 1.0  # for other connections that are being closed
_WRITE_VERSION, _CHANGE_COUNTER, _VALID_FOR = 18, 24, 92  # offsets in the header


def copy(source: Path, copied: Path, descriptor: int, *, unnamed: bool = False) -> None:
    """Copy a database that may be in use into the empty file `copied`, open as `descriptor`, in one
    step: with several, each write of another process would start it over.

    The file then needs no other files beside it. `unnamed` removes its name before anything is
    written to it, so that it is gone when this process ends.

    Raises BackupError if the copy is damaged, as the original then is.
    """
    # isolation_level=None: the driver begins no transactions of its own.
    with (
        closing(_open(source)) as original,
        closing(sqlite3.connect(copied, isolation_level=None)) as target,
    ):
        target.execute("PRAGMA journal_mode=OFF")  # nobody needs half a copy
        target.execute("PRAGMA synchronous=OFF")  # NewFile.keep() does that once
        target.execute("PRAGMA user_version").fetchone()  # opens the file
        if unnamed:
            copied.unlink()
        try:
            original.backup(target, pages=-1)
        except sqlite3.Error as error:
            raise BackupError(f"The database cannot be copied: {error}.") from error
        _leave_wal_mode(descriptor)
        _check(target, "The database is damaged, and was not backed up")


def _leave_wal_mode(descriptor: int) -> None:
    """Set the header's versions to 1 (https://sqlite.org/fileformat2.html, 1.3.3), in a file that
    has no WAL. `PRAGMA journal_mode` would have to create one first, beside a file with a name. The
    other change of the header tells the open connection to read it again."""
    counter = os.pread(descriptor, 4, _CHANGE_COUNTER)
    following = ((int.from_bytes(counter) + 1) % 2**32).to_bytes(4)
    for offset, value in (
        (_WRITE_VERSION, b"\1\1"),
        (_CHANGE_COUNTER, following),
        (_VALID_FOR, following),
    ):
        os.pwrite(descriptor, value, offset)


def check(path: Path) -> None:
    """Raises BackupError if the file is damaged."""
    try:
        with closing(_open(path)) as connection:
            _check(connection, "The backup is damaged")
    except sqlite3.Error:
        raise BackupError("The backup is damaged: it is not a database.") from None


def _check(connection: sqlite3.Connection, message: str) -> None:
    ((first,),) = connection.execute("PRAGMA quick_check(1)").fetchall()
    if first != "ok":
        raise BackupError(f"{message}: {first}.")


def require_complete(path: Path) -> None:
    """Raises BackupError if the file is a copy of a running database, whose last changes are in a
    file beside it."""
    wal = path.with_name(f"{path.name}-wal")
    if wal.is_file() and wal.stat().st_size:
        raise BackupError(
            f"{wal} has changes that {path} lacks. Use a backup of `hourpass backup` instead."
        )


def is_in_use(path: Path) -> bool:
    """Whether another connection has the database open. Other hosts do not tell."""
    with closing(_open(path, lock_seconds=_CLOSE_SECONDS)) as connection:
        try:
            # In WAL mode, each open connection has a shared lock on the file.
            connection.execute("PRAGMA locking_mode=EXCLUSIVE")
            connection.execute("BEGIN EXCLUSIVE")
            connection.execute("ROLLBACK")
        except sqlite3.OperationalError:
            return True
    return False


def require_unused(path: Path) -> None:
    """Raises BackupError if another connection has the database open."""
    if has_header(path) and is_in_use(path):
        raise in_use_error(path)


def in_use_error(path: Path) -> BackupError:
    return BackupError(f"{path} is in use. Stop the service on every host, then try again.")


def close_all(path: Path) -> bool:
    """Move everything into the file itself, and remove those beside it. Returns False if another
    connection has the database open."""
    with closing(_open(path, lock_seconds=_CLOSE_SECONDS)) as connection:
        try:
            (mode,) = connection.execute("PRAGMA journal_mode=DELETE").fetchone()
        except sqlite3.OperationalError:
            return False
    return bool(mode == "delete")


def has_header(path: Path) -> bool:
    """Whether it may be opened: SQLite deletes the files beside one that is no database."""
    try:
        with path.open("rb") as file:
            return file.read(len(SQLITE_MAGIC)) == SQLITE_MAGIC
    except FileNotFoundError:
        return False


def has_users(path: Path) -> bool:
    """Raises sqlite3.Error if the file cannot be read."""
    if path.stat().st_size and not has_header(path):
        raise sqlite3.DatabaseError("file is not a database")
    with closing(_open(path)) as connection:
        tables = connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'users'").fetchone()
        return bool(tables and connection.execute("SELECT 1 FROM users LIMIT 1").fetchone())


def replace(path: Path, restored: Path, now: datetime) -> Path | None:
    """Give a restored file the name of the database. Returns the new name of the former database,
    if there was one. There is a database under this name at each moment."""
    _set_owner(restored, path)
    former: Path | None = None
    if path.exists():
        former = path.with_name(f"{path.name}.before-restore-{now:%Y%m%dT%H%M%SZ}")
        try:
            os.link(path, former)
        except OSError as error:
            raise BackupError(f"Cannot create {former}: {error.strerror}.") from error
    for companion in COMPANIONS:  # of a damaged database. SQLite would apply them to the new one
        beside = path.with_name(path.name + companion)
        if beside.exists():
            beside.replace((former or path).with_name((former or path).name + f"{companion}-kept"))
    restored.replace(path)
    sync_directory(path)
    return former


def _set_owner(restored: Path, path: Path) -> None:
    """Root may restore a file that the service's user has to open."""
    if os.geteuid() == 0:
        found = path.stat() if path.exists() else path.parent.stat()
        os.chown(restored, found.st_uid, found.st_gid)


def _open(path: Path, *, lock_seconds: float = _LOCK_SECONDS) -> sqlite3.Connection:
    """Does not create it."""
    uri = f"file:{quote(str(path))}?mode=rw"
    return sqlite3.connect(uri, uri=True, timeout=lock_seconds, isolation_level=None)
