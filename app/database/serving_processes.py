"""Which processes of this host serve a SQLite file: each holds a lock on a file beside it.

The kernel releases the lock when the process ends, however it ends. It does not show the locks of
other hosts on every network file system.
"""

import os
import sys
from contextlib import suppress
from pathlib import Path

SUFFIX = "-processes"
MAX_PROCESSES = 16
_RECORD_BYTES = 16  # of one process: its id


def hold(database: Path) -> list[int]:
    """Take a lock until this process ends. Call it once. Returns the ids of the processes that have
    a lock already. Without effect where files cannot be locked."""
    if sys.platform == "win32":
        return []
    import fcntl

    others: list[int] = []
    with suppress(OSError):
        others = find(database)
        # Never closed: that would release the lock.
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        file = os.open(_beside(database), flags, 0o600)
        for start in range(0, MAX_PROCESSES * _RECORD_BYTES, _RECORD_BYTES):
            with suppress(BlockingIOError):  # the place of another process
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, _RECORD_BYTES, start)
                os.pwrite(file, str(os.getpid()).ljust(_RECORD_BYTES).encode(), start)
                break
    return others


def find(database: Path) -> list[int]:
    """The ids of the other processes that hold a lock, as they are in their containers. Raises
    OSError."""
    if sys.platform == "win32":
        return []
    import fcntl

    found = []
    with suppress(FileNotFoundError), _beside(database).open("rb") as file:
        for start in range(0, MAX_PROCESSES * _RECORD_BYTES, _RECORD_BYTES):
            try:
                fcntl.lockf(file, fcntl.LOCK_SH | fcntl.LOCK_NB, _RECORD_BYTES, start)
            except BlockingIOError:
                found.append(int(os.pread(file.fileno(), _RECORD_BYTES, start).strip() or 0))
    return found


def _beside(database: Path) -> Path:
    return database.with_name(database.name + SUFFIX)
