"""A restart refuses no connection and cuts no request, even under load.

`python -m benchmarks.restarts` does the same for a minute.
"""

import asyncio
import os
import signal
import socket
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

from app.server import run, systemd
from app.server.listeners import bind, deal
from app.server.supervisor import Supervisor
from app.server.systemd import Notifier, inherited_listeners
from tests.support.forked_process import forked_ids
from tests.support.raw_http import connected, read_answers, request
from tests.support.service_manager import service_manager
from tests.support.started_service import (
    Service,
    forked,
    token_of,
    workers_that_answer,
)
from tests.support.steady_load import SteadyLoad
from tests.support.users import ARTHUR
from tests.support.waiting import until


def token_at(url: str) -> str:
    assert httpx.post(f"{url}/register-user", json=ARTHUR).status_code == 201
    return token_of(url)


def put_on(load: SteadyLoad) -> None:
    load.keep_alive(4, pause=0.03)
    load.keep_alive(2, pause=0.9)  # about as long as idle connections are kept at a stop
    load.new_connections(2, pause=0.03)
    load.listeners(2)


def assert_all_answered(load: SteadyLoad) -> None:
    assert load.failures == {}
    assert {status for _, status in load.answered} == {200}
    assert {kind for kind, _ in load.answered} == {"keep-alive", "new connection", "listener"}
    assert load.closed > 0, "no worker has ended"


async def test_two_workers_are_replaced_without_a_lost_request(tmp_path: Path) -> None:
    """A service manager learns when both are ready, and when they stop."""
    url = f"sqlite:///{tmp_path}/hourpass.db"
    address = str(tmp_path / "notify")
    with (
        state_socket(address) as states,
        forked(
            tmp_path, "serve", "--workers", "2", DATABASE_URL=url, NOTIFY_SOCKET=address
        ) as service,
    ):
        assert states.recv(100) == b"READY=1"
        service.wait_for_workers(2)
        service.process.send_signal(signal.SIGTTIN)  # as terminals do, to no effect
        started = service.messages().count("Application startup complete.")
        assert started == 2
        async with SteadyLoad(service.base_url, token_at(service.base_url)) as load:
            put_on(load)
            service.process.send_signal(signal.SIGHUP)
            done = "Restarted all workers"
            await until(lambda: done in service.written())
        assert_all_answered(load)
        assert len(workers_that_answer(service.base_url)) == 2
        assert service.logged(done)["workers"] == 2
        assert service.messages().count("Application startup complete.") == started + 2
        assert "Starting on http" in str(service.messages())
        killed_while_clients_wait(service)
        assert service.messages("error") == []
        assert service.interrupt() == 0
        assert states.recv(100) == b"STOPPING=1"
        assert "Traceback" not in service.written()


def state_socket(address: str) -> socket.socket:
    """As the service manager has one."""
    states = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    states.bind(address)
    states.settimeout(60)
    return states


def killed_while_clients_wait(service: Service) -> None:
    """The next worker answers the clients that wait for the killed one."""
    worker, _ = workers_of(service)
    os.kill(worker, signal.SIGSTOP)
    with ExitStack() as stack:
        clients = [stack.enter_context(connected(service.base_url)) for _ in range(20)]
        for client in clients:
            client.settimeout(60)
            client.sendall(request("GET /healthz", "Connection: close"))
        os.kill(worker, signal.SIGKILL)
        statuses = [[answer.status for answer in read_answers(client)] for client in clients]
    assert statuses == [[200]] * 20
    assert worker not in workers_of(service)


def workers_of(service: Service) -> list[int]:
    group = service.process.pid
    return [pid for pid in forked_ids() - {group} if os.getpgid(pid) == group]


class StoppingWorker:
    """Notes whether the service still listened when it had to stop."""

    def __init__(self, listener: socket.socket) -> None:
        self._listener = listener
        self.is_listening: list[bool] = []

    def terminate(self) -> None:
        self.is_listening.append(self._listener.fileno() >= 0)


def test_a_service_that_stops_refuses_connections_while_its_workers_finish() -> None:
    [listener] = bind("127.0.0.1", 0, 1)
    worker = StoppingWorker(listener)
    supervisor = Supervisor.__new__(Supervisor)
    supervisor._listeners, supervisor._notifier = [[listener]], Notifier()
    supervisor.processes = [worker]  # type: ignore[list-item] # it has what is used
    supervisor.terminate_all()
    assert worker.is_listening == [False]


async def test_a_service_restarts_on_the_sockets_of_its_service_manager(tmp_path: Path) -> None:
    issuer = "http://localhost:8000"  # the default would name the port, and change
    with service_manager(tmp_path, sockets=2, ISSUER=issuer) as manager:
        manager.start()
        assert manager.next_state() == "READY=1"
        async with SteadyLoad(manager.url, token_at(manager.url)) as load:
            put_on(load)
            stopped = await asyncio.to_thread(manager.stop)
            assert stopped == -signal.SIGTERM
            assert manager.next_state() == "STOPPING=1"
            manager.start("--port", "1")
            assert await asyncio.to_thread(manager.next_state) == "READY=1"
        assert_all_answered(load)


def test_sockets_for_another_process_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LISTEN_PID", str(os.getppid()))
    monkeypatch.setenv("LISTEN_FDS", "1")
    assert inherited_listeners() == []
    assert "LISTEN_FDS" not in os.environ


@pytest.mark.parametrize(
    ("family", "kind"),
    [
        pytest.param(socket.AF_UNIX, socket.SOCK_STREAM, id="Unix"),
        pytest.param(socket.AF_INET, socket.SOCK_DGRAM, id="UDP"),
    ],
)
def test_a_socket_that_is_not_tcp_is_refused(
    family: int, kind: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(run, "raise_open_files", lambda: None)  # would last
    monkeypatch.setattr(systemd, "_FIRST_FILE", socket.socket(family, kind).detach())
    monkeypatch.setenv("LISTEN_PID", str(os.getpid()))
    monkeypatch.setenv("LISTEN_FDS", "1")
    with pytest.raises(SystemExit) as end:
        run.serve("127.0.0.1", 0, 1)
    assert end.value.code == 3
    [line] = caplog.messages
    assert line == "Cannot use a socket of the service manager (LISTEN_FDS): it is not a TCP socket"


def test_only_this_process_sends_its_state_to_the_service_manager(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for address in (str(tmp_path / "notify"), f"@hourpass-test-{os.getpid()}"):
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
            manager.bind(address.replace("@", "\0"))
            manager.settimeout(10)
            monkeypatch.setenv("NOTIFY_SOCKET", address)
            Notifier().ready()
            assert manager.recv(100) == b"READY=1"
            Notifier().stopping()  # the first one has removed the address
            manager.setblocking(False)
            with pytest.raises(BlockingIOError):
                manager.recv(100)
        Notifier().ready()  # no error if the manager has ended


def numbers(dealt: list[list[socket.socket]], listeners: list[socket.socket]) -> list[list[int]]:
    return [[listeners.index(listener) for listener in each] for each in dealt]


@pytest.mark.parametrize(
    ("copies", "workers", "expected"),
    [
        pytest.param(1, 1, [[0]], id="one worker"),
        pytest.param(2, 2, [[0], [1]], id="one for each"),
        pytest.param(1, 3, [[0], [0], [0]], id="one for all"),
        pytest.param(3, 2, [[0, 2], [1]], id="more sockets than workers"),
        pytest.param(2, 3, [[0], [1], [0]], id="fewer sockets than workers"),
    ],
)
def test_every_socket_has_a_worker(copies: int, workers: int, expected: list[list[int]]) -> None:
    listeners = bind("127.0.0.1", 0, copies)
    try:
        assert numbers(deal(listeners, workers), listeners) == expected
    finally:
        for listener in listeners:
            listener.close()


def test_every_worker_listens_on_every_address() -> None:
    listeners = [*bind("127.0.0.1", 0, 2), *bind("127.0.0.1", 0, 2)]
    try:
        assert numbers(deal(listeners, 2), listeners) == [[0, 2], [1, 3]]
    finally:
        for listener in listeners:
            listener.close()
