"""On SIGHUP, one worker ends as on SIGTERM. Several are replaced: see test_restarts.py."""

import json
import signal
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from uvicorn.config import STARTUP_FAILURE

from app.server import supervisor
from app.server.run import _stop_on_hangup
from app.server.supervisor import Supervisor
from tests.support.raw_http import connected, read_answers, request
from tests.support.service_process import SERVE_TIMEOUT_SECONDS
from tests.support.started_service import forked


def test_sighup_ends_one_worker_as_sigterm_does(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/hourpass.db"
    with forked(tmp_path, "serve", DATABASE_URL=url) as service:
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


@pytest.fixture
def sighup_handler() -> Iterator[None]:
    """The test may change it."""
    before = signal.getsignal(signal.SIGHUP)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.mark.usefixtures("sighup_handler")
def test_started_with_nohup_one_worker_ignores_sighup() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    _stop_on_hangup()
    assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN


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
    assert restarting._becomes_ready(SlowWorker([False] * 58 + [True]))  # type: ignore[arg-type] # has what is used
    assert not restarting._becomes_ready(SlowWorker([False] * 59 + [True]))  # type: ignore[arg-type] # has what is used


class RecordingWorker:
    """A worker that runs, or one that has ended at its start. It records how it is stopped."""

    def __init__(self, exitcode: int | None) -> None:
        self.exitcode = exitcode
        self.calls: list[str] = []

    def __getattr__(self, name: str) -> Callable[[], None]:
        return lambda: self.calls.append(name)


def test_a_worker_stays_if_its_successor_cannot_start(
    restarting: Supervisor, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    running, failed = RecordingWorker(None), RecordingWorker(STARTUP_FAILURE)
    workers: list[Any] = [running]
    restarting.processes = workers.copy()
    monkeypatch.setattr(restarting, "_start", lambda _: failed)
    restarting.restart_all()
    assert restarting.processes == workers
    assert (running.calls, failed.calls) == ([], ["kill", "join"])
    [record] = caplog.records
    assert record.levelname == "ERROR"
    assert record.getMessage().startswith("Restart failed, the other workers keep running")


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT])
def test_a_service_that_has_to_stop_waits_for_no_worker(
    restarting: Supervisor, sent: signal.Signals
) -> None:
    restarting.signal_queue.append(sent)
    assert not restarting._becomes_ready(SlowWorker([]))  # type: ignore[arg-type] # has what is used
