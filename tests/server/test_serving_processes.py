"""Services that use the same SQLite file are noticed, by `hourpass doctor` and at start."""

import json
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from app.database.serving_processes import MAX_PROCESSES, SUFFIX, find
from app.operations.doctor.processes import check_processes
from app.settings import ROOT
from tests.support.started_service import forked

HOLD = """
import sys
from pathlib import Path
from app.database.serving_processes import hold
print(hold(Path(sys.argv[1])), flush=True)
sys.stdin.read()
"""


@contextmanager
def holder(database: Path) -> Iterator[tuple[int, list[int]]]:
    """A process that holds a lock: its id, and the others that it saw."""
    command = [sys.executable, "-c", HOLD, str(database)]
    with subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin
        assert process.stdout
        try:
            yield process.pid, json.loads(process.stdout.readline())
        finally:
            process.kill()


def states(database: Path) -> list[str]:
    return [finding.state for finding in check_processes(database)]


def test_two_services_on_one_file_are_a_warning_until_one_ends(tmp_path: Path) -> None:
    database = tmp_path / "hourpass.db"
    assert (find(database), states(database)) == ([], ["ok"])
    with holder(database) as (first, seen_by_first):
        assert (seen_by_first, find(database), states(database)) == ([], [first], ["ok"])
        with holder(database) as (second, seen_by_second):
            assert seen_by_second == [first]
            assert find(database) == [first, second]
            [finding] = check_processes(database)
            assert finding.state == "warning"
            assert f"2 services (processes {first}, {second})" in finding.text
        assert (find(database), states(database)) == ([first], ["ok"])
    assert find(database) == []


def test_the_file_with_the_locks_is_small_and_private(tmp_path: Path) -> None:
    database = tmp_path / "hourpass.db"
    with holder(database):
        found = database.with_name(database.name + SUFFIX).stat()
    assert stat.S_IMODE(found.st_mode) == 0o600
    assert found.st_size <= MAX_PROCESSES * 16


def test_a_file_that_cannot_be_read_is_not_checked(tmp_path: Path) -> None:
    database = tmp_path / "hourpass.db"
    database.with_name(database.name + SUFFIX).mkdir()
    assert states(database) == ["warning"]
    with holder(database) as (_, seen):
        assert seen == []  # which does not keep the service from starting


def test_a_service_notices_another_one_at_its_start(tmp_path: Path) -> None:
    database = tmp_path / "hourpass.db"
    with (
        holder(database) as (other, _),
        forked(tmp_path, "serve", DATABASE_URL=f"sqlite:///{database}") as service,
    ):
        line = service.logged(
            "Another service uses this SQLite file. If this is not on purpose, stop one of them"
        )
        assert (line["level"], line["processes"]) == ("warning", [other])
        service.wait_until_ready()
        assert find(database) == [other, service.process.pid]
        service.interrupt()
        assert find(database) == [other]
