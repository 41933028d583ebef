"""The service, or another command, in a new interpreter, as users start it."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from app.settings import ROOT
from tests.support.processes import environment, free_port
from tests.support.service_process import SERVE_TIMEOUT_SECONDS, wait_until_ready
from tests.support.settings import CHEAP_HASHING
from tests.support.users import ARTHUR

HOURPASS = (sys.executable, "-m", "hourpass")
UVICORN = (sys.executable, "-m", "uvicorn", "app.main:app")


@dataclass
class Service:
    """A server process, and all that it has written so far."""

    process: "subprocess.Popen[bytes]"
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
        """Ctrl-C, which a terminal sends to the whole process group; returns the exit status."""
        os.killpg(self.process.pid, signal.SIGINT)
        return self.process.wait(SERVE_TIMEOUT_SECONDS)

    def written(self) -> str:
        """The whole lines that it has written so far: the last one may be half in the file."""
        whole, end, _ = self.output.read_text().rpartition("\n")
        return whole + end

    def logged(self, message: str) -> dict[str, object]:
        """A thread writes the lines, maybe later than a client gets its response."""
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
        """Those of this level. Every line that it has written must be JSON."""
        lines = [json.loads(line) for line in self.written().splitlines()]
        return [line["message"] for line in lines if line["level"] == level]

    def everything_written(self) -> str:
        """All lines of its life, which this ends."""
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
    try:
        yield Service(process, f"http://127.0.0.1:{port}", output)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(SERVE_TIMEOUT_SECONDS)


def ended(*command: str, **variables: str) -> "subprocess.CompletedProcess[str]":
    """Run a command that is expected to end by itself."""
    return subprocess.run(
        command,
        cwd=ROOT,
        env=environment(**variables),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=SERVE_TIMEOUT_SECONDS,
        check=False,
    )


def token_of(base_url: str) -> str:
    token: str = httpx.post(f"{base_url}/token", json=ARTHUR).json()["token"]
    return token
