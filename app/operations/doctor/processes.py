"""Whether several processes serve one SQLite file, which is allowed, but often an accident."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

from app.database.serving_processes import find
from app.operations.doctor.finding import Finding
from app.operations.doctor.system import System


async def check(system: System) -> AsyncIterator[Finding]:
    if system.sqlite_path:
        for finding in check_processes(system.sqlite_path):
            yield finding


def check_processes(database: Path) -> Iterator[Finding]:
    """`database` is the SQLite file. The doctor is no process that serves."""
    try:
        processes = find(database)
    except OSError as error:
        yield Finding("processes", "warning", f"Not checked: {error.strerror}.")
        return
    if len(processes) > 1:
        ids = ", ".join(map(str, processes))
        text = (
            f"{len(processes)} services (processes {ids}) use {database}. If this is not on "
            "purpose, stop all but one. For more capacity, set WORKERS."
        )
        yield Finding("processes", "warning", text)
        return
    number = "One service uses" if processes else "No service uses"
    text = f"{number} {database} on this host. Services on other hosts cannot be seen."
    yield Finding("processes", "ok", text)
