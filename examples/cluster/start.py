"""Starts every process of the example and stops them all at the end. README.md explains it.

PostgreSQL refuses to run as root: root starts etcd, Patroni and HAProxy as the user postgres.
"""

import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from string import Template

from examples.cluster.members import Cluster, status

HERE = Path(__file__).resolve().parent
PROGRAMS = f"{os.environ['PATH']}:/usr/sbin"
START_SECONDS = 180  # for a busy machine; an idle one needs less than 30
STOP_SECONDS = 10
# A killed member that starts again at once leads again. Stay away until another one leads.
RESTART_SECONDS = 40


class StartError(Exception):
    """The example cannot start or go on. The text says why."""


class Processes:
    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._folder = cluster.folder
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._restart_at: dict[str, float] = {}
        self._is_ready = False

    def start(self) -> None:
        self._fill_in_templates()
        self._start_database()
        self._start_hourpass()
        self._is_ready = True

    def check(self) -> None:
        """Raises StartError if a process has ended. A member of the database starts again later."""
        for name, process in list(self._processes.items()):
            if process.poll() is None:
                continue
            ended = f"{name} ended with status {process.returncode}"
            if name not in self._cluster.members or not self._is_ready:
                log = (self._folder / f"{name}.log").read_text(errors="replace")
                raise StartError(f"{ended}. Its log ends with:\n{log[-2000:]}")
            if name not in self._restart_at:
                print(f"{ended}. It starts again in {RESTART_SECONDS} s", flush=True)
                self._restart_at[name] = time.monotonic() + RESTART_SECONDS
            elif time.monotonic() > self._restart_at[name]:
                del self._restart_at[name]
                self._start_member(name)
                print(f"{name} starts again", flush=True)

    def stop(self) -> None:
        """Kill all processes, because the data is removed. Patroni first: it would start PostgreSQL
        again."""
        members = self._cluster.members
        for name in members.keys() & self._processes.keys():
            self._processes[name].kill()
        for name in members:
            self._cluster.kill(name, signal.SIGQUIT)  # leaves no shared memory behind
        for process in self._processes.values():
            process.terminate()
        deadline = time.monotonic() + STOP_SECONDS
        for process in self._processes.values():
            try:
                process.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)  # with its workers
                process.wait()
        while any(map(self._cluster.processes, members)) and time.monotonic() < deadline:
            time.sleep(0.1)
        for name in members:
            self._cluster.kill(name)

    def _fill_in_templates(self) -> None:
        """They contain secrets. Only the owner of the folder can read them."""
        names = ("superuser_password", "replicator_password", "hourpass_password")
        values = {name: secrets.token_hex(16) for name in (*names, "secret_key", "admin_password")}
        values |= {**self._cluster.addresses, "bin": _postgres_programs()}
        values |= {"folder": str(self._folder)}
        for name in ("database.sql", "haproxy.cfg", "hourpass.env"):
            self._fill_in(name, name, values)
        for name, address in self._cluster.members.items():
            self._fill_in(
                "patroni.yml", f"{name}.yml", {**values, "name": name, "address": address}
            )
        if os.geteuid() == 0:
            for path in (self._folder, *self._folder.iterdir()):
                shutil.chown(path, "postgres", "postgres")

    def _fill_in(self, template: str, name: str, values: dict[str, str]) -> None:
        text = Template((HERE / template).read_text()).safe_substitute(values)
        (self._folder / name).write_text(text)

    def _start_database(self) -> None:
        address = self._cluster.addresses["etcd"]
        client, peer = f"http://{address}:2379", f"http://{address}:2380"
        self._start_server(
            "etcd",
            *("etcd", "--name=etcd1", f"--data-dir={self._folder}/etcd", "--log-level=warn"),
            *(f"--listen-client-urls={client}", f"--advertise-client-urls={client}"),
            *(f"--listen-peer-urls={peer}", f"--initial-advertise-peer-urls={peer}"),
            f"--initial-cluster=etcd1={peer}",
        )
        self._wait("etcd", partial(_is_ok, f"{client}/health"))
        for name in self._cluster.members:
            self._start_member(name)
        self._start_server("haproxy", "haproxy", "-db", "-f", str(self._folder / "haproxy.cfg"))
        self._wait("a primary", lambda: self._cluster.primary() is not None)

    def _start_member(self, name: str) -> None:
        self._start_server(name, "patroni", str(self._folder / f"{name}.yml"))

    def _start_hourpass(self) -> None:
        settings = {"ENV_FILE": str(self._folder / "hourpass.env")}
        hourpass = (sys.executable, "-m", "hourpass", "serve")
        for name in ("host_a", "host_b"):
            self._start(name, *hourpass, HOST=self._cluster.addresses[name], **settings)
        api = (sys.executable, "-m", "uvicorn", "api:app", "--no-access-log", "--port", "9000")
        address = self._cluster.addresses["front"]
        self._start("api", *api, "--host", address, HOURPASS_URL=self._cluster.url("front"))
        for name in ("host_a", "host_b", "front"):
            self._wait(name, partial(_is_ok, f"{self._cluster.url(name)}/readyz"))
        self._wait("the API", partial(_is_ok, f"{self._cluster.api_url}/readyz"))
        self._wait("the standbys", lambda: len(self._cluster.standbys()) == 2)
        self._wait("a synchronous one", lambda: self._cluster.synchronous_standby() is not None)

    def _start_server(self, name: str, program: str, *arguments: str) -> None:
        """A program of Debian."""
        found = shutil.which(program, path=PROGRAMS)
        if not found:
            raise StartError(f"{program} is missing. README.md names the packages.")
        user = "postgres" if os.geteuid() == 0 else None
        self._start(name, found, *arguments, user=user)

    def _start(self, name: str, *command: str, user: str | None = None, **variables: str) -> None:
        inherited = {key: os.environ[key] for key in ("PATH", "HOME", "LANG") if key in os.environ}
        with (self._folder / f"{name}.log").open("ab") as log:
            self._processes[name] = subprocess.Popen(
                command,
                cwd="/" if user else HERE,
                env={**inherited, **variables},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                process_group=0,  # Ctrl-C reaches this program alone, which then stops the others
                user=user,
                group=user,
                extra_groups=[] if user else None,
            )

    def _wait(self, what: str, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + START_SECONDS
        while not condition():
            self.check()
            if time.monotonic() > deadline:
                raise StartError(f"Waited {START_SECONDS} s for {what}")
            time.sleep(0.1)


def _is_ok(url: str) -> bool:
    return status(url) == 200


def _postgres_programs() -> str:
    versions = sorted(Path("/usr/lib/postgresql").glob("[0-9]*/bin/postgres"))
    if not versions:
        raise StartError("PostgreSQL is missing. README.md names the packages.")
    return str(max(versions, key=lambda path: float(path.parts[-3])).parent)


def main() -> None:
    cluster = Cluster.from_environment()
    folder = cluster.folder
    try:
        folder.mkdir(mode=0o700)
    except FileExistsError:
        sys.exit(f"{folder} exists: the example is running, or was killed. Then remove the folder.")
    began = time.monotonic()
    processes = Processes(cluster)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: sys.exit())
    try:
        processes.start()
        print(f"Ready after {time.monotonic() - began:.0f} s. {cluster.primary()} leads.")
        print(f"Hourpass: {cluster.url('front')}/docs  API: {cluster.api_url}/docs")
        print(f"Logs, data and the administrator's password (hourpass.env): {folder}")
        print("Ctrl-C ends all.", flush=True)
        while True:
            processes.check()
            time.sleep(0.2)
    except StartError as error:
        sys.exit(str(error))
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
        processes.stop()
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
