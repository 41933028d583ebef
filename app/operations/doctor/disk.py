"""Whether the disk of the SQLite file has room."""

import shutil
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

from app.operations.doctor.finding import Finding
from app.operations.doctor.system import NotCheckedError, System

MIB = 2**20
LITTLE_BYTES = 1024 * MIB
TOO_LITTLE_BYTES = 100 * MIB
# The service writes a checkpoint at 1,000 pages. A longer log has a reader that does not end.
LONG_WAL_BYTES = 256 * MIB


async def check(system: System) -> AsyncIterator[Finding]:
    if system.sqlite_path is None:
        yield Finding("disk", "ok", "The database is elsewhere. Watch the disk of its server.")
        return
    for finding in _check_disk(system.sqlite_path):
        yield finding


def _check_disk(path: Path) -> Iterator[Finding]:
    if not path.parent.is_dir():
        raise NotCheckedError("there is no directory for the database")
    yield judge(path.parent, shutil.disk_usage(path.parent).free)
    wal = path.with_name(f"{path.name}-wal")
    if wal.exists() and wal.stat().st_size > LONG_WAL_BYTES:
        text = (
            f"{wal} has {wal.stat().st_size // MIB:,} MiB. A backup or another program keeps the "
            "database open for reading. Stop it."
        )
        yield Finding("disk", "warning", text)


def judge(directory: Path, free: int) -> Finding:
    text = f"{directory} has {free // MIB:,} MiB left."
    if free < TOO_LITTLE_BYTES:
        return Finding("disk", "error", f"{text} Free some space: without it, nobody can log in.")
    if free < LITTLE_BYTES:
        return Finding("disk", "warning", f"{text} Free some space before it is full.")
    return Finding("disk", "ok", text)
