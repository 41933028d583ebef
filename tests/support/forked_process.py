"""Processes of `hourpass` that start quickly.

They are forked from one that has imported the service, which takes most of the CPU time of a start.
tests/server/test_serving.py starts the service in a new interpreter, as users do.
"""

import atexit
import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from multiprocessing import forkserver
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any
from unittest.mock import patch

from uvicorn import _subprocess

from tests.support.processes import environment

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["tests.support.preloaded_service"])


class ForkedProcess:
    """Runs `hourpass` with these arguments. Has the part of subprocess.Popen that tests use.

    With `output`, it appends its output to this file, and leads a new process group. If the file is
    a terminal, it reads from it too.
    """

    def __init__(
        self,
        *arguments: str,
        directory: str,
        variables: dict[str, str],
        output: Path | None = None,
    ) -> None:
        self.arguments = arguments
        given = (arguments, directory, variables, output)
        self._process = _context.Process(target=_run, args=given)
        _start_server()
        with _without_main_module():
            self._process.start()

    @property
    def pid(self) -> int:
        pid = self._process.pid
        assert pid
        return pid

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        if self._process.exitcode is None:
            raise subprocess.TimeoutExpired(["hourpass", *self.arguments], timeout or 0)
        return self._process.exitcode

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def terminate(self) -> None:
        self._process.terminate()

    def kill(self) -> None:
        self._process.kill()


@cache
def _start_server() -> None:
    """It imports the modules that this process would import, and sees nobody's settings."""
    variables = environment(PYTHONPATH=os.pathsep.join(sys.path))
    with patch.dict(os.environ, variables, clear=True):
        forkserver.ensure_running()


@contextmanager
def _without_main_module() -> Iterator[None]:
    """Otherwise the new process would import the main module of this one first."""
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


def forked_ids() -> set[int]:
    """The process ids of all forked processes: of services, and of their workers."""
    _start_server()
    server = vars(forkserver._forkserver)["_forkserver_pid"]
    return set(map(int, Path(f"/proc/{server}/task/{server}/children").read_text().split()))


def _run(
    arguments: tuple[str, ...], directory: str, variables: dict[str, str], output: Path | None
) -> None:
    is_terminal = output is not None and output.is_char_device()
    if output:
        os.setsid()
        flags = os.O_RDWR if is_terminal else os.O_WRONLY | os.O_CREAT | os.O_APPEND
        file = os.open(output, flags)
        for number in (1, 2):
            os.dup2(file, number)
        os.close(file)
    else:
        # It would start another server, although it knows the one that it is from.
        vars(forkserver._forkserver)["ensure_running"] = lambda: None
        vars(_subprocess)["spawn"] = SimpleNamespace(Process=_Worker)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # ignored if `nohup` has started the tests
    _adopt(directory, variables)
    if is_terminal:
        os.dup2(1, 0)
    sys.argv = ["hourpass", *arguments]
    try:
        runpy.run_module("hourpass", run_name="__main__", alter_sys=True)
    finally:
        atexit._run_exitfuncs()  # multiprocessing would end the process without


class _Worker(ForkServerProcess):
    """A worker of uvicorn: forked too, with the environment of its supervisor."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._environment = str(Path.cwd()), dict(os.environ)

    def run(self) -> None:
        _adopt(*self._environment)
        super().run()


def _adopt(directory: str, variables: dict[str, str]) -> None:
    # In a process that a shell starts, it is file 0. multiprocessing has made it another one, which
    # workers would not inherit.
    os.dup2(sys.stdin.fileno(), 0)
    sys.stdin = os.fdopen(0, closefd=False)
    os.chdir(directory)
    os.environ.clear()
    os.environ.update(variables)
