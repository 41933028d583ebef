"""SIGHUP: one worker ends as on SIGTERM, several are replaced. All lines have the log's format."""

import asyncio
import json
import signal
import socket
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from itertools import count
from pathlib import Path
from types import SimpleNamespace

import httpx
import pytest

from app.server import supervisor
from app.server.supervisor import Supervisor
from tests.support.raw_http import connected, read_answers, request
from tests.support.service_process import SERVE_TIMEOUT_SECONDS
from tests.support.started_service import HOURPASS, Service, ended, started
from tests.support.waiting import until

pytestmark = pytest.mark.usefixtures("sighup_is_not_ignored")


def test_sighup_ends_one_worker_as_sigterm_does(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/hourpass.db"
    with started(tmp_path, *HOURPASS, "serve", DATABASE_URL=url) as service:
        service.wait_until_ready()
        cursor = httpx.get(f"{service.base_url}/revocations").json()["cursor"]
        with connected(service.base_url) as connection:
            connection.sendall(
                request(f"GET /revocations?wait=20&after={cursor}", "Connection: close")
            )
            # Another request shows that the first one has arrived.
            httpx.get(f"{service.base_url}/healthz")
            service.process.send_signal(signal.SIGHUP)
            [answer] = read_answers(connection)
        assert service.process.wait(SERVE_TIMEOUT_SECONDS) == -signal.SIGTERM
    assert answer.status == 200
    assert json.loads(answer.body)["revocations"] == []
    assert "Received SIGHUP, stopping" in service.messages()
    assert "Application shutdown complete." in service.messages()


def test_started_with_nohup_one_worker_ignores_sighup(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/hourpass.db"
    ignoring = ("sh", "-c", 'trap "" HUP; exec "$@"', "sh", *HOURPASS, "serve")
    with started(tmp_path, *ignoring, DATABASE_URL=url) as service:
        service.wait_until_ready()
        service.process.send_signal(signal.SIGHUP)
        assert httpx.get(f"{service.base_url}/readyz").status_code == 200
        assert service.process.poll() is None


@contextmanager
def two_workers(directory: Path) -> Iterator[tuple[Service, Path]]:
    database = directory / "hourpass.db"
    command = (*HOURPASS, "serve", "--workers", "2")
    with started(directory, *command, DATABASE_URL=f"sqlite:///{database}") as service:
        service.wait_for_workers(2)
        yield service, database


def test_sighup_replaces_all_workers_and_a_failure_is_an_error_line(tmp_path: Path) -> None:
    with two_workers(tmp_path) as (service, database):
        started_before = service.messages().count("Application startup complete.")
        service.process.send_signal(signal.SIGHUP)
        wait_for(lambda: "Restarted all workers" in service.messages())
        assert service.messages().count("Application startup complete.") == started_before + 2
        assert httpx.get(f"{service.base_url}/readyz").status_code == 200
        assert service.messages("error") == []

        with closing(sqlite3.connect(database)) as connection:
            connection.execute("UPDATE hourpass_version SET version_num = 'from tomorrow'")
            connection.commit()
        service.process.send_signal(signal.SIGHUP)
        failed = "Restart failed, the other workers keep running. See the lines above"
        wait_for(lambda: failed in service.messages("error"))
        assert httpx.get(f"{service.base_url}/healthz").status_code == 200
        assert "Starting on http" in str(service.messages())


def wait_for(condition: Callable[[], bool]) -> None:
    asyncio.run(until(condition))


class SlowWorker:
    """Serves after so many questions."""

    exitcode = None

    def __init__(self, answers: list[bool]) -> None:
        self._answers = iter(answers)

    def is_ready(self, timeout: float) -> bool:
        assert timeout
        return next(self._answers)


@pytest.fixture
def restarting(monkeypatch: pytest.MonkeyPatch) -> Supervisor:
    """A supervisor without workers, whose time passes while it waits."""
    seconds = count()
    still = SimpleNamespace(sleep=lambda _: None, monotonic=lambda: float(next(seconds)))
    monkeypatch.setattr(supervisor, "time", still)
    restarting = Supervisor.__new__(Supervisor)
    restarting.signal_queue = []
    return restarting


def test_a_worker_has_a_minute_to_start(restarting: Supervisor) -> None:
    assert restarting._becomes_ready(SlowWorker([False] * 58 + [True]))  # type: ignore[arg-type]
    assert not restarting._becomes_ready(SlowWorker([False] * 59 + [True]))  # type: ignore[arg-type]


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT])
def test_a_service_that_has_to_stop_waits_for_no_worker(
    restarting: Supervisor, sent: signal.Signals
) -> None:
    restarting.signal_queue.append(sent)
    assert not restarting._becomes_ready(SlowWorker([]))  # type: ignore[arg-type]


@pytest.mark.parametrize("workers", ["1", "2"])
def test_an_address_in_use_is_a_line_in_the_logs_format(workers: str, tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        options = ("--workers", workers, "--port", str(other.getsockname()[1]))
        url = f"sqlite:///{tmp_path}/hourpass.db"
        run = ended(*HOURPASS, "serve", *options, DATABASE_URL=url)
    lines = [json.loads(line) for line in run.stdout.splitlines()]
    [error] = [line for line in lines if line["level"] == "error"]
    assert "address already in use" in error["message"].lower()
