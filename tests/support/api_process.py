"""An API in a process of its own, started by a command."""

import os
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import httpx

START_TIMEOUT_SECONDS = 120.0


@contextmanager
def running_api(
    command: Sequence[str | Path],
    variables: Mapping[str, str],
    url: str,
    directory: Path,
    timeout: float = START_TIMEOUT_SECONDS,
) -> Iterator[None]:
    """Wait until the URL answers, with any status but 502 and 503. Then kill the process, and those
    that it has started."""
    output = directory / "output"
    with output.open("wb") as writer:
        process = subprocess.Popen(
            command,
            env=variables,
            cwd=directory,
            stdout=writer,
            stderr=writer,
            start_new_session=True,
        )
    try:
        _wait_until_ready(process, url, output, timeout)
        yield
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _wait_until_ready(
    process: "subprocess.Popen[bytes]", url: str, output: Path, timeout: float
) -> None:
    deadline = time.monotonic() + timeout
    with httpx.Client(verify=False) as client:
        while time.monotonic() < deadline:
            assert process.poll() is None, output.read_text()[-4000:]
            try:
                if client.get(url).status_code not in (502, 503):
                    return
            except httpx.TransportError:
                pass
            time.sleep(0.05)
    raise AssertionError(output.read_text()[-4000:])
