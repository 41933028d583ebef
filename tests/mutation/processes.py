"""Runs tests on a changed module, in a forked process that shares imports and databases."""

import ast
import importlib
import os
import signal
import sys
import time
from contextlib import suppress
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import CodeType
from typing import Any, NamedTuple

import pytest

from app.settings import ROOT
from tests import templates
from tests.mutation.coverage import Test

_OWN = ("app", "hourpass")
_OPTIONS = ["-x", "-q", "-p", "no:cacheprovider", "--rootdir", str(ROOT)]
_OPTIONS += ["-W", "ignore::pytest.PytestAssertRewriteWarning"]  # its plugins were imported before
_STARTUP_SECONDS = 20
_SLOWNESS = 5  # times as long as without a change, and the test hangs


class Process(NamedTuple):
    pid: int
    deadline: float


def preload() -> None:
    """Make the databases once, and import once what the tests import from elsewhere."""
    templates.started_sqlite()
    templates.started_postgres()
    names: set[str] = set()
    for path in [*ROOT.glob("tests/*.py"), *ROOT.glob("app/**/*.py")]:
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Import):
                names.update(alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
                names.add(node.module)
    for name in sorted(names):
        if name.partition(".")[0] not in (*_OWN, "tests"):
            with suppress(ImportError):
                importlib.import_module(name)


def start(path: Path, tree: ast.Module, tests: list[Test]) -> Process:
    """The tree is the module at `path`, as it is now: the process has a copy."""
    expected = sum(test.seconds for test in tests)
    pid = os.fork()
    if pid == 0:
        try:
            _run(path, compile(tree, str(path), "exec"), [test.id for test in tests])
        finally:
            os._exit(3)
    return Process(pid, time.monotonic() + _STARTUP_SECONDS + _SLOWNESS * expected)


def check(path: Path, tests: list[Test]) -> None:
    """Raises RuntimeError if a test fails without any change."""
    process = start(path, ast.parse(path.read_text("utf-8")), tests)
    while (has_passed := passed(process)) is None:
        time.sleep(0.01)
    if not has_passed:
        raise RuntimeError(f"Some of these fail without any change: {[test.id for test in tests]}")


def passed(process: Process) -> bool | None:
    """Whether all tests passed, or None if they are still running. A process that takes too long
    is killed, and so are the processes that it started."""
    pid, status = os.waitpid(process.pid, os.WNOHANG)
    if not pid:
        if time.monotonic() < process.deadline:
            return None
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        os.waitpid(process.pid, 0)
        return False
    with suppress(ProcessLookupError):  # what a failing test left behind
        os.killpg(process.pid, signal.SIGKILL)
    return os.waitstatus_to_exitcode(status) == pytest.ExitCode.OK


def _run(path: Path, code: CodeType, ids: list[str]) -> None:
    os.setpgid(0, 0)
    nowhere = os.open(os.devnull, os.O_RDWR)
    for descriptor in range(3):
        os.dup2(nowhere, descriptor)
    for name in list(sys.modules):
        if name.partition(".")[0] in _OWN:
            del sys.modules[name]
    read_code = SourceFileLoader.get_code

    def get_code(loader: SourceFileLoader, name: str) -> Any:
        return code if loader.path == str(path) else read_code(loader, name)

    SourceFileLoader.get_code = get_code  # type: ignore[assignment, method-assign]
    os._exit(pytest.main([*_OPTIONS, *ids]))
