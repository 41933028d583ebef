"""Runs tests on a changed module, in a process forked from one that has collected all tests.

Either the functions of the process get their changed code, or the tests run in a copy of the tree
that contains the change, where the processes that they start have it too.
"""

import ast
import gc
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import suppress
from enum import StrEnum
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any, NamedTuple

import pytest

from app.settings import ROOT
from tests.mutation.coverage import Choice
from tests.support import database_templates as templates

_OPTIONS = ["-x", "-qq", "-p", "no:cacheprovider"]
_OPTIONS += ["-W", "ignore::pytest.PytestAssertRewriteWarning"]  # its plugins were imported before
_SOURCES = ("alembic", "app", "guard", "tests")  # the others are not imported
_STARTUP_SECONDS = 20
_SLOWNESS = 5  # a test that takes this many times longer than without a change counts as hanging


class Outcome(StrEnum):
    KILLED = "killed"
    SURVIVED = "survived"
    BROKEN = "broken"  # the run itself failed, so it says nothing


class Process(NamedTuple):
    pid: int
    deadline: float

    def outcome(self) -> Outcome | None:
        """None if the tests are still running. A process that takes too long is killed."""
        pid, status = os.waitpid(self.pid, os.WNOHANG)
        if not pid:
            if time.monotonic() < self.deadline:
                return None
            self.kill()
            os.waitpid(self.pid, 0)
            return Outcome.KILLED
        self.kill()
        code = os.waitstatus_to_exitcode(status)
        if code in (pytest.ExitCode.INTERNAL_ERROR, pytest.ExitCode.NO_TESTS_COLLECTED):
            return Outcome.BROKEN
        return Outcome.SURVIVED if code == pytest.ExitCode.OK else Outcome.KILLED

    def kill(self) -> None:
        """With the processes that it has started."""
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)


class Processes:
    """`main` is called when all tests have been collected and the databases made."""

    def __init__(self, main: Callable[["Processes"], None]) -> None:
        self._main = main
        self.items: dict[str, pytest.Item] = {}
        self._functions: dict[str, list[FunctionType]] = {}
        self._has_failed = False

    def run(self) -> int:
        return pytest.main([*_OPTIONS, "--rootdir", str(ROOT), "-s"], plugins=[self])

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        if session.testsfailed:
            raise session.Interrupted("Some tests cannot be collected")
        templates.started_sqlite()
        templates.started_postgres()
        self.items = {item.nodeid: item for item in session.items}
        self._functions = _functions_by_file()
        gc.freeze()  # else each process would copy all of this memory when it collects garbage
        try:
            self._main(self)
        finally:
            templates.remove()
        return True

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self._has_failed |= report.failed

    def start(self, path: Path, tree: ast.Module, choice: Choice) -> Process:
        """The tree is the module at `path`, as it is now: the process has a copy."""
        pid = os.fork()
        if pid == 0:
            try:
                os.setpgid(0, 0)
                gc.unfreeze = lambda: None  # which an app calls when it ends
                nowhere = os.open(os.devnull, os.O_RDWR)
                for descriptor in range(3):
                    os.dup2(nowhere, descriptor)
                code = compile(tree, str(path), "exec")
                if choice.in_copy or not _replace(self._functions[str(path)], code):
                    os._exit(_run_in_copy(path, ast.unparse(tree), choice.ids))
                os._exit(self._run(choice.ids))
            finally:
                os._exit(pytest.ExitCode.INTERNAL_ERROR)
        return Process(pid, time.monotonic() + _STARTUP_SECONDS + _SLOWNESS * choice.seconds)

    def pass_unchanged(self, path: Path, choice: Choice) -> bool:
        process = self.start(path, ast.parse(path.read_text("utf-8")), choice)
        while (outcome := process.outcome()) is None:
            time.sleep(0.01)
        return outcome is Outcome.SURVIVED

    def _run(self, ids: list[str]) -> int:
        items = [self.items[id_] for id_ in ids]
        for item, next_item in zip(items, [*items[1:], None], strict=True):
            item.config.hook.pytest_runtest_protocol(item=item, nextitem=next_item)
            if self._has_failed:
                return pytest.ExitCode.TESTS_FAILED
        return pytest.ExitCode.OK


def _functions_by_file() -> dict[str, list[FunctionType]]:
    by_file: defaultdict[str, list[FunctionType]] = defaultdict(list)
    for found in gc.get_objects():
        if isinstance(found, FunctionType):
            by_file[found.__code__.co_filename].append(found)
    return by_file


def _replace(functions: list[FunctionType], code: CodeType) -> bool:
    """Give each function its changed code. Returns False if the module has to be imported anew: it
    has not been imported, two functions cannot be told apart, or the change adds or removes a
    variable of an outer function, which Python does not allow for an existing function."""
    changed: defaultdict[tuple[str, int], list[CodeType]] = defaultdict(list)
    for inner in _inner_codes(code):
        changed[inner.co_qualname, inner.co_firstlineno].append(inner)
    for function in functions:
        now = function.__code__
        try:
            [function.__code__] = changed[now.co_qualname, now.co_firstlineno]
        except ValueError:
            return False
    return bool(functions)


def _inner_codes(code: CodeType) -> Iterator[CodeType]:
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield constant
            yield from _inner_codes(constant)


def _run_in_copy(path: Path, source: str, ids: list[str]) -> int:
    directory = templates.directory() / str(os.getpid())
    copy = directory / "tree"
    try:
        _copy_tree(copy)
        (copy / path.relative_to(ROOT)).write_text(source, "utf-8")
        for name in list(sys.modules):
            is_test = name == "conftest" or name.startswith("test_")  # in guard/tests/, no package
            is_ours = is_test or name.partition(".")[0] in ("app", "hourpass", "tests")
            if is_ours and name != templates.__name__:
                del sys.modules[name]
        _import_from(copy)
        os.chdir(copy)
        options = [*_OPTIONS, "--rootdir", str(copy), "--basetemp", str(directory / "tests")]
        return pytest.main([*options, *ids])
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _copy_tree(copy: Path) -> None:
    """With the compiled modules, of which only the changed one is compiled again."""
    copy.mkdir(parents=True)
    for original in ROOT.iterdir():
        if original.name in _SOURCES:
            shutil.copytree(original, copy / original.name)
        else:
            (copy / original.name).symlink_to(original)


def _import_from(copy: Path) -> None:
    """In this process and in those that it starts, whatever environment they get."""
    moved = {str(ROOT): str(copy), str(ROOT / "guard"): str(copy / "guard")}
    sys.path[:] = [moved.get(place, place) for place in sys.path]
    start = subprocess.Popen.__init__

    def start_with_path(process: Any, *arguments: Any, **named: Any) -> None:
        variables = dict(os.environ if named.get("env") is None else named["env"])
        places = [*moved.values(), variables.get("PYTHONPATH", "")]
        named["env"] = {**variables, "PYTHONPATH": os.pathsep.join(filter(None, places))}
        start(process, *arguments, **named)

    subprocess.Popen.__init__ = start_with_path  # type: ignore[assignment, method-assign]
