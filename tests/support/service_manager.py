"""Starts the service as systemd does: with sockets that stay open while it restarts, and an address
at which it says that it is ready."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from app.server.listeners import bind
from app.settings import ROOT
from tests.support.processes import environment
from tests.support.settings import CHEAP_HASHING

TIMEOUT_SECONDS = 60

# Puts the sockets where the service looks for them. Its process id is known only in the process.
_START = """
import fcntl, os, sys
number = int(sys.argv[1])
files = [fcntl.fcntl(int(file), fcntl.F_DUPFD, 100) for file in sys.argv[2:2 + number]]
for place, file in enumerate(files):
    os.dup2(file, 3 + place)
    os.close(file)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS=str(number), LISTEN_FDNAMES="http")
os.execv(sys.executable, [sys.executable, "-m", "hourpass", *sys.argv[2 + number:]])
"""


class ServiceManager:
    def __init__(
        self, directory: Path, listeners: list[socket.socket], variables: dict[str, str]
    ) -> None:
        self.listeners = listeners
        self.log = directory / "log"
        self.process: subprocess.Popen[bytes] | None = None
        self._states = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._states.settimeout(TIMEOUT_SECONDS)
        address = directory / "notify"
        self._states.bind(str(address))
        self._variables = {**variables, "NOTIFY_SOCKET": str(address)}

    @property
    def url(self) -> str:
        host, port, *_ = self.listeners[0].getsockname()
        return f"http://{host}:{port}"

    def start(self, *arguments: str) -> None:
        files = [listener.fileno() for listener in self.listeners]
        numbers = map(str, (len(files), *files))
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-I", "-S", "-c", _START, *numbers, "serve", *arguments],
                cwd=ROOT,
                env=self._variables,
                pass_fds=files,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def next_state(self) -> str:
        return self._states.recv(4096).decode()

    def stop(self) -> int:
        """The exit status. Requests that were sent are answered first."""
        assert self.process
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(TIMEOUT_SECONDS)

    def close(self) -> None:
        if self.process:
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait(TIMEOUT_SECONDS)
        self._states.close()
        for listener in self.listeners:
            listener.close()


@contextmanager
def service_manager(directory: Path, sockets: int = 1, **settings: str) -> Iterator[ServiceManager]:
    listeners = bind("127.0.0.1", 0, sockets)
    for listener in listeners:
        listener.listen(2048)
    variables = environment(DATABASE_URL=f"sqlite:///{directory}/hourpass.db", **settings)
    manager = ServiceManager(directory, listeners, {**CHEAP_HASHING, **variables})
    try:
        yield manager
    finally:
        manager.close()
