"""Processes of `hourpass` that start quickly.

They are forked from one that has imported the service, which takes most of the CPU time of a start.
tests/server/test_serving.py and test_standard_streams.py start the service in a new interpreter, as
users do.
"""

import atexit
import multiprocessing
import os
import resource
import runpy
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache, partial
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
    """Runs `hourpass`, or another `module`, with these arguments. Has the part of subprocess.Popen
    that tests use. `open_files` are its soft and its hard limit.

    With `output`, it appends its output to this file, and leads a new process group. The workers of
    a service belong to the group, and append theirs to the same file. If the file is a terminal, it
    reads from it too.
    """

    def __init__(
        self,
        *arguments: str,
        directory: str,
        variables: dict[str, str],
        output: Path | None = None,
        module: str = "hourpass",
        open_files: tuple[int, int] | None = None,
    ) -> None:
        self.arguments = arguments
        given = (module, arguments, directory, variables, output, open_files)
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
            raise subprocess.TimeoutExpired(self.arguments, timeout or 0)
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
    module: str,
    arguments: tuple[str, ...],
    directory: str,
    variables: dict[str, str],
    output: Path | None,
    open_files: tuple[int, int] | None,
) -> None:
    # It would start another server, although it knows the one that it is from.
    vars(forkserver._forkserver)["ensure_running"] = lambda: None
    vars(_subprocess)["spawn"] = SimpleNamespace(Process=partial(_Worker, output))
    is_terminal = output is not None and output.is_char_device()
    if is_terminal:
        os.setsid()  # only the first process of a session can open its terminal
    elif output:
        os.setpgid(0, 0)
    if output:
        _append_output_to(output)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # ignored if `nohup` has started the tests
    _adopt(directory, variables)
    if is_terminal:
        os.dup2(1, 0)
    if open_files:
        resource.setrlimit(resource.RLIMIT_NOFILE, open_files)
    sys.argv = [module, *arguments]
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    finally:
        atexit._run_exitfuncs()  # multiprocessing would end the process without


class _Worker(ForkServerProcess):
    """A worker of uvicorn: forked too, with the environment of its supervisor."""

    def __init__(self, output: Path | None, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._environment = str(Path.cwd()), dict(os.environ)
        self._output = output
        self._group = os.getpgrp()

    def run(self) -> None:
        if self._output:
            os.setpgid(0, self._group)
            _append_output_to(self._output)
        _adopt(*self._environment)
        super().run()


def _append_output_to(path: Path) -> None:
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND)
    for number in (1, 2):
        os.dup2(file, number)
    os.close(file)


def _adopt(directory: str, variables: dict[str, str]) -> None:
    # In a process that a shell starts, it is file 0. multiprocessing has made it another one, which
    # workers would not inherit.
    os.dup2(sys.stdin.fileno(), 0)
    sys.stdin = os.fdopen(0, closefd=False)
    os.chdir(directory)
    os.environ.clear()
    os.environ.update(variables)
