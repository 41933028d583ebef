"""Which tests execute a line, the nearest first.

A file of tests is near to a module if its tests execute little else. All tests of the nearest file
come first.
"""

import json
import os
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Container, Iterable
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest
from coverage import CoverageData

from app.settings import ROOT

_DATA = ROOT / ".coverage.mutation"
_DURATIONS = ROOT / ".coverage.mutation.json"
_DURATIONS_VARIABLE = "TEST_DURATIONS_FILE"
_SLOW_SECONDS = 2.0
# Their tests read what is made when modules are imported: tables, routes, numbers.
_OF_IMPORTS = ("test_migrations.py", "test_openapi.py", "test_documented_numbers.py")


# Modules that also run in processes that tests start, where nothing is measured, and these tests.
_IN_PROCESSES = {
    "app/server": ("tests/http/", "tests/server/"),
    "guard/hourpass/client": ("tests/guard/test_client.py::test_a_forked_child",),
    "guard/hourpass/testing": ("guard/tests/test_guard_testing.py",),
}


class Choice(NamedTuple):
    """Of tests. `in_copy`: they need a copy of the tree that contains the change, because the line
    is executed when its module is imported, or in a process that they start."""

    ids: list[str]
    seconds: float
    in_copy: bool


class Coverage:
    """The data of one run of all tests. It is made first if there is none."""

    def __init__(self) -> None:
        if not _DATA.exists() or not _DURATIONS.exists():
            _run_all_tests()
        elif newer := _newer_than(_DURATIONS.stat().st_mtime):
            print(f"{len(newer)} files are newer than .coverage.mutation, such as {newer[0]}")
        self._data = CoverageData(str(_DATA))
        self._data.read()
        self._seconds: dict[str, float] = json.loads(_DURATIONS.read_text())
        lines_of: Counter[str] = Counter()
        for path in self._data.measured_files():
            lines_of.update(_count(self._by_line(Path(path)).values()))
        self._lines_of_file = _by_file(lines_of)

    def choose(
        self, path: Path, lines: Iterable[int], seconds: float, there_are: Container[str]
    ) -> Choice:
        """The nearest tests that fit into `seconds`. For a line that runs only at import: all tests
        of the module."""
        by_line = self._by_line(path)
        found = {context for line in lines for context in by_line.get(line, ())}
        at_import = "" in found
        if found == {""}:
            found = self._contexts(path) or self._contexts(path.parent)
        ids = set(_ids(found, "run") or _ids(found, "setup"))
        place = path.parent if ids.isdisjoint(self._ranked(path)) else path
        nearest = [id_ for id_ in self._ranked(place) if id_ in ids and id_ in there_are]
        last = [id_ for id_ in self._of_imports() if id_ in there_are] if at_import else []
        return self._choice([*dict.fromkeys([*self._fitting(nearest, seconds), *last])], at_import)

    def choose_in_processes(self, path: Path, seconds: float, there_are: Container[str]) -> Choice:
        """Of the tests that start processes which run this module."""
        places: tuple[str, ...] = ()
        for part, tests in _IN_PROCESSES.items():
            if path.is_relative_to(ROOT / part):
                places += tests
        ids = [id_ for id_ in self._seconds if id_.startswith(places) and id_ in there_are]
        return self._choice(self._fitting(ids, seconds), True)

    def _fitting(self, ids: Iterable[str], seconds: float) -> list[str]:
        fitting: list[str] = []
        for id_ in ids:
            if self._seconds[id_] <= seconds:
                fitting.append(id_)
                seconds -= self._seconds[id_]
        return fitting

    def _choice(self, ids: list[str], in_copy: bool) -> Choice:
        return Choice(ids, sum(self._seconds[id_] for id_ in ids), in_copy)

    def _of_imports(self) -> list[str]:
        return [
            id_
            for id_, seconds in self._seconds.items()
            if _file(id_).endswith(_OF_IMPORTS)
            and seconds <= _SLOW_SECONDS
            and "[postgresql" not in id_
        ]

    @cache  # noqa: B019 - there is one instance
    def _by_line(self, path: Path) -> dict[int, list[str]]:
        return self._data.contexts_by_lineno(str(path))

    @cache  # noqa: B019 - there is one instance
    def _contexts(self, place: Path) -> set[str]:
        """Of a module, or of all modules in a folder. Empty if no test calls anything in it."""
        paths = (Path(path) for path in self._data.measured_files())
        by_line = (self._by_line(path) for path in paths if path.is_relative_to(place))
        return {name for lines in by_line for names in lines.values() for name in names} - {""}

    @cache  # noqa: B019 - there is one instance
    def _ranked(self, place: Path) -> list[str]:
        """The tests of a module or folder that passed, in the order in which they are tried."""
        in_place: Counter[str] = Counter()
        for path in map(Path, self._data.measured_files()):
            if path.is_relative_to(place):
                in_place.update(_count(self._by_line(path).values()))
        found = {*in_place, *_ids(self._contexts(place), "setup")}
        ids = sorted(id_ for id_ in found if id_ in self._seconds)
        in_place_by_file = _by_file(in_place)
        cases: Counter[str] = Counter()
        ranks: dict[str, tuple[bool, bool, float, int]] = {}
        for id_ in ids:
            function, file = id_.partition("[")[0], _file(id_)
            nearness = in_place_by_file[file] / max(self._lines_of_file[file], 1)
            is_slow = self._seconds[id_] > _SLOW_SECONDS
            # PostgreSQL last: its databases take longer to make.
            ranks[id_] = "[postgresql" in id_, is_slow, -nearness, cases[function]
            cases[function] += 1
        return sorted(ids, key=ranks.__getitem__)


def _file(id_: str) -> str:
    return id_.partition("::")[0]


def _by_file(by_test: Counter[str]) -> Counter[str]:
    total: Counter[str] = Counter()
    for id_, number in by_test.items():
        total[_file(id_)] += number
    return total


def _ids(contexts: Iterable[str], phase: str) -> list[str]:
    """Of contexts such as `tests/test_x.py::test_y[z]|run`."""
    return [id_ for id_, _, name in (each.rpartition("|") for each in contexts) if name == phase]


def _count(contexts_by_line: Iterable[list[str]]) -> Counter[str]:
    return Counter(id_ for contexts in contexts_by_line for id_ in _ids(contexts, "run"))


def _newer_than(moment: float) -> list[str]:
    paths = (path for folder in ("app", "guard", "tests") for path in (ROOT / folder).rglob("*.py"))
    return [str(path.relative_to(ROOT)) for path in paths if path.stat().st_mtime > moment]


def _run_all_tests() -> None:
    print("No coverage by test yet: running all tests once", flush=True)
    command = [sys.executable, "-m", "pytest", "-q", "-n", "auto", "-p", __name__]
    command += ["--cov", "--cov-context=test", "--cov-report="]
    variables = {"COVERAGE_FILE": str(_DATA), _DURATIONS_VARIABLE: str(_DURATIONS)}
    # A test that fails today is not used.
    subprocess.run(command, cwd=ROOT, env={**os.environ, **variables}, check=False)


# As a plugin of that run


_durations: defaultdict[str, float] = defaultdict(float)
_failed: set[str] = set()


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    _durations[report.nodeid] += report.duration
    if report.failed:
        _failed.add(report.nodeid)


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    is_whole = exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED)
    if is_whole and not hasattr(session.config, "workerinput"):  # of pytest-xdist
        passed = {id_: seconds for id_, seconds in _durations.items() if id_ not in _failed}
        Path(os.environ[_DURATIONS_VARIABLE]).write_text(json.dumps(passed))
