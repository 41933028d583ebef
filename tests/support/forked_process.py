"""Processes of `hourpass` that start quickly.

They are forked from one that has imported the libraries, which takes most of the CPU time of a
start. The service's own modules are imported in each process: some read the environment then.
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
from multiprocessing.context import ForkServerContext
from pathlib import Path
from types import ModuleType

_LIBRARIES = [
    "aiosqlite",
    "argon2",
    "asyncpg",
    "bcrypt",
    "click",
    "cryptography.x509",
    "email_validator",
    "fastapi",
    "httptools",
    "jose.jwt",
    "passlib.hash",
    "pydantic_settings",
    "python_multipart",
    "sqlalchemy.dialects.postgresql.asyncpg",
    "sqlalchemy.dialects.sqlite.aiosqlite",
    "sqlalchemy.ext.asyncio",
    "uvicorn",
    "uvloop",
]


def _fork_server() -> ForkServerContext:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_LIBRARIES)
    return context


_context = _fork_server()


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
