"""The environment and the ports of processes that tests start."""

import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import cycle
from threading import Timer
from typing import Any

# Ports below those that the system chooses itself, a range for each pytest worker. A second run on
# the same machine begins at another place in it.
_WORKER = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % 20
_ports = cycle(10_000 + 1_000 * _WORKER + (os.getpid() + number) % 1_000 for number in range(1_000))


def free_port() -> int:
    """A port that nothing else takes before the service listens on it."""
    while True:
        port = next(_ports)
        with socket.socket() as listener, suppress(OSError):
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(("127.0.0.1", port))
            return port


def environment(**settings: str) -> dict[str, str]:
    """What a process started by a test sees: nobody's settings but these."""
    inherited = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    return {**inherited, "ENV_FILE": os.devnull, **settings}


@contextmanager
def killed_after(seconds: float, process: subprocess.Popen[Any]) -> Iterator[None]:
    """So that a test that reads its output ends. The process was started with
    `start_new_session=True`; its children are killed too."""
    timer = Timer(seconds, os.killpg, (process.pid, signal.SIGKILL))
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
