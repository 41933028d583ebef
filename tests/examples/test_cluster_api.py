"""examples/cluster without its processes: the API is ready only while its guard can check tokens,
and the example waits for that. `make test-cluster` runs all of it."""

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from types import ModuleType

import httpx
import pytest

from examples.cluster import members, start
from hourpass.testing import Issuer, authorization
from tests.support.guards import comes_true
from tests.support.servers import served

pytest_plugins = ["hourpass.testing"]


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch, hourpass_issuer: Issuer) -> Iterator[ModuleType]:
    monkeypatch.setenv("HOURPASS_URL", hourpass_issuer.name)
    from examples.cluster import api  # reads the variable

    hourpass_issuer.attach(api.guard)
    monkeypatch.setattr(api.guard, "timeout", 0.1)
    yield api
    api.guard.close()


def test_the_api_is_ready_while_its_guard_can_check_tokens(
    api: ModuleType, hourpass_issuer: Issuer
) -> None:
    with served(api.app) as url, httpx.Client(base_url=url) as client:

        def statuses() -> tuple[int, int]:
            headers = authorization(hourpass_issuer.token())
            ready, asked = client.get("/readyz"), client.get("/whoami", headers=headers)
            return ready.status_code, asked.status_code

        api.guard.close()
        with hourpass_issuer.outage():  # as while the hosts start
            assert statuses() == (503, 503)
        assert comes_true(lambda: client.get("/readyz").status_code == 200)
        assert statuses() == (200, 200)
        with hourpass_issuer.outage(timedelta(seconds=25)):  # the longest failover
            assert statuses() == (200, 200)
        assert comes_true(lambda: api.guard.is_ready)
        with hourpass_issuer.outage(timedelta(seconds=31)):
            assert statuses() == (503, 503)


def test_the_example_waits_until_its_api_is_ready(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    cluster = members.Cluster("127.0.0", tmp_path)
    processes = start.Processes(cluster)
    started: list[str] = []
    answers = iter([None, 503, 200])  # of the API: not there, not ready, ready

    def status(url: str) -> int | None:
        if url == f"{cluster.api_url}/readyz":
            return next(answers)
        return 503 if url == f"http://{cluster.members['member1']}:8008/replica" else 200

    monkeypatch.setattr(processes, "_start", lambda name, *_, **__: started.append(name))
    for module in (start, members):
        monkeypatch.setattr(module, "status", status)
    processes._start_hourpass()
    assert started == ["host_a", "host_b", "api"]
    assert next(answers, "asked until it was ready") == "asked until it was ready"
