"""The service in a process whose output a test reads, and which it interrupts.

started() runs any command in a new interpreter, as users do. forked() runs `hourpass` quicker; see
forked_process.py.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import NamedTemporaryFile

import httpx

from app.settings import ROOT
from tests.support.forked_process import ForkedProcess
from tests.support.processes import environment, free_port
from tests.support.service_process import SERVE_TIMEOUT_SECONDS, wait_until_ready
from tests.support.settings import CHEAP_HASHING
from tests.support.users import ARTHUR

HOURPASS = (sys.executable, "-m", "hourpass")
APP = "app.main:app"
UVICORN = (sys.executable, "-m", "uvicorn", APP)


@dataclass
class Service:
    """A server process, and all that it has written so far."""

    process: "subprocess.Popen[bytes] | ForkedProcess"
    base_url: str
    output: Path

    def wait_until_ready(self) -> None:
        wait_until_ready(self.process, self.base_url, workers=1)

    def wait_for_workers(self, number: int) -> None:
        self.wait_until_ready()  # the first of them is
        deadline = time.monotonic() + SERVE_TIMEOUT_SECONDS
        while self.written().count("Application startup complete.") < number:
            assert time.monotonic() < deadline
            time.sleep(0.05)

    def interrupt(self) -> int:
        """Send Ctrl-C to the whole process group, as a terminal does. Returns the exit status."""
        os.killpg(self.process.pid, signal.SIGINT)
        return self.process.wait(SERVE_TIMEOUT_SECONDS)

    def written(self) -> str:
        """The lines that it has written so far, without an incomplete last one."""
        whole, end, _ = self.output.read_text().rpartition("\n")
        return whole + end

    def logged(self, message: str) -> dict[str, object]:
        """The line with this message. Waits for it: a thread writes the lines."""
        deadline = time.monotonic() + SERVE_TIMEOUT_SECONDS
        while True:
            lines = [json.loads(line) for line in self.written().splitlines() if line[:1] == "{"]
            for line in lines:
                if line["message"] == message:
                    found: dict[str, object] = line
                    return found
            assert time.monotonic() < deadline, message
            time.sleep(0.02)

    def messages(self, level: str = "info") -> list[object]:
        """The messages of this level. Fails if a line is not JSON."""
        lines = [json.loads(line) for line in self.written().splitlines()]
        return [line["message"] for line in lines if line["level"] == level]

    def everything_written(self) -> str:
        """All of its lines. Interrupts the service."""
        self.interrupt()
        return self.written()


@contextmanager
def started(
    directory: Path, *command: str, cwd: Path = ROOT, **variables: str
) -> Iterator[Service]:
    port = free_port()
    output = directory / f"output-{port}"
    with output.open("wb") as writer:
        process = subprocess.Popen(
            [*command, "--port", str(port)],
            cwd=cwd,
            env=environment(**{**CHEAP_HASHING, **variables}),
            stdout=writer,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    with killed_at_the_end(process):
        yield Service(process, f"http://127.0.0.1:{port}", output)


@contextmanager
def forked(
    directory: Path,
    *arguments: str,
    cwd: Path = ROOT,
    open_files: tuple[int, int] | None = None,
    **variables: str,
) -> Iterator[Service]:
    """`hourpass` with these arguments and a free port."""
    port = free_port()
    output = directory / f"output-{port}"
    output.touch()
    settings = environment(**{**CHEAP_HASHING, **variables})
    command = (*arguments, "--port", str(port))
    process = ForkedProcess(
        *command, directory=str(cwd), variables=settings, output=output, open_files=open_files
    )
    with killed_at_the_end(process):
        yield Service(process, f"http://127.0.0.1:{port}", output)


@contextmanager
def killed_at_the_end(process: "subprocess.Popen[bytes] | ForkedProcess") -> Iterator[None]:
    """Kill it, with its workers."""
    try:
        yield
    finally:
        if process.poll() is None:
            with suppress(ProcessLookupError):  # it leads no process group yet
                os.killpg(process.pid, signal.SIGKILL)
            process.kill()
            process.wait(SERVE_TIMEOUT_SECONDS)


def run_command(
    *arguments: str, module: str = "hourpass", **variables: str
) -> "subprocess.CompletedProcess[str]":
    """Run `hourpass`, or another module, with these arguments until it ends by itself."""
    with NamedTemporaryFile() as file:
        output = Path(file.name)
        process = ForkedProcess(
            *arguments,
            directory=str(ROOT),
            variables=environment(**variables),
            output=output,
            module=module,
        )
        with killed_at_the_end(process):
            status = process.wait(SERVE_TIMEOUT_SECONDS)
        return subprocess.CompletedProcess(arguments, status, output.read_text())


def token_of(base_url: str) -> str:
    token: str = httpx.post(f"{base_url}/token", json=ARTHUR).json()["token"]
    return token


def workers_that_answer(base_url: str) -> Counter[str]:
    """How many of 40 connections each worker has accepted. Its request ids begin alike."""
    with ExitStack() as connections:
        answers = [
            connections.enter_context(httpx.Client(verify=False)).get(f"{base_url}/healthz")
            for _ in range(40)
        ]
    return Counter(answer.headers["X-Request-Id"].partition("-")[0] for answer in answers)
