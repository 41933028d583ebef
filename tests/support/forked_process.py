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
from pathlib import Path
from types import ModuleType
from unittest.mock import patch

from tests.support.processes import environment

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["tests.support.preloaded_service"])


class ForkedProcess:
    """Runs `hourpass` with these arguments. Has the part of subprocess.Popen that tests use.

    With `output`, it appends its output to this file, and leads a new process group.
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
        assert self._process.pid
        self.pid = self._process.pid

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


def _run(
    arguments: tuple[str, ...], directory: str, variables: dict[str, str], output: Path | None
) -> None:
    if output:
        os.setsid()
        file = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        for number in (1, 2):
            os.dup2(file, number)
        os.close(file)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # ignored if `nohup` has started the tests
    # In a process that a shell starts, it is file 0. multiprocessing has made it another one, which
    # workers would not inherit.
    os.dup2(sys.stdin.fileno(), 0)
    sys.stdin = os.fdopen(0, closefd=False)
    os.chdir(directory)
    os.environ.clear()
    os.environ.update(variables)
    sys.argv = ["hourpass", *arguments]
    try:
        runpy.run_module("hourpass", run_name="__main__", alter_sys=True)
    finally:
        atexit._run_exitfuncs()  # multiprocessing would end the process without
