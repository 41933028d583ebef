"""Who can read and write the files with secrets: `.env` and the SQLite database."""

import os
import stat
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

from app.operations.doctor.finding import Finding
from app.operations.doctor.system import System
from app.settings import env_file

_OTHERS = stat.S_IRWXO
_GROUP = stat.S_IRWXG


async def check(system: System) -> AsyncIterator[Finding]:
    if not hasattr(os, "geteuid"):
        yield Finding("files", "ok", "Windows has no permissions of this kind.")
        return
    found = [*_check_env_file(env_file())]
    for finding in found:
        yield finding
    if system.sqlite_path:
        found = [*_check_database(system.sqlite_path)]
        for finding in found:
            yield finding


def _check_env_file(path: Path) -> Iterator[Finding]:
    """A group of the service's own may read it, as packages for servers do."""
    try:
        mode = path.stat().st_mode
    except OSError:
        return
    if not stat.S_ISREG(mode):
        return
    if mode & (_OTHERS | stat.S_IWGRP):
        text = f"Other users have access to {path}. Run `chmod 600 {path}`."
        yield Finding(".env", "warning", text)
    else:
        yield Finding(".env", "ok", f"Other users have no access to {path}.")


def _check_database(path: Path) -> Iterator[Finding]:
    files = [path.with_name(path.name + suffix) for suffix in ("", "-wal", "-shm")]
    existing = [file for file in files if file.exists()]
    if not existing:
        return  # the check of the database says so
    faults = [*_faults(existing), *_faults_of_directory(path.parent)]
    for fault in faults:
        yield Finding("database file", "warning", fault)
    if not faults:
        yield Finding("database file", "ok", f"Other users have no access to {path}.")


def _faults(files: list[Path]) -> Iterator[str]:
    for file in files:
        found = file.stat()
        if found.st_mode & (_OTHERS | _GROUP):
            yield f"Other users have access to {file}. Run `chmod 600 {file}`."
        if os.geteuid() not in (0, found.st_uid):
            yield (
                f"{file} belongs to another user. Run hourpass as that user, or the files that "
                "SQLite adds beside it belong to you."
            )


def _faults_of_directory(directory: Path) -> Iterator[str]:
    mode = directory.stat().st_mode
    if mode & stat.S_IWOTH and not mode & stat.S_ISVTX:
        yield (
            f"Every user can replace files in {directory}. Run `chmod o-w {directory}`, or move "
            "the database to a directory of its own."
        )
