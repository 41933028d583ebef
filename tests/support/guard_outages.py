"""A service that stops and returns under the same address, and the guards that follow it."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from app.settings import ROOT
from hourpass import Guard, GuardError
from hourpass.guard import outage
from tests.support.forked_process import ForkedProcess
from tests.support.guards import comes_true, refusal_of
from tests.support.processes import environment
from tests.support.running_service import RunningService
from tests.support.service_process import wait_until_ready
from tests.support.settings import CHEAP_HASHING

ISSUER = "http://hourpass.example"  # the same wherever it is served


@contextmanager
def serving_at(port: int, database: Path) -> Iterator[RunningService]:
    """A real service, which is killed in the end."""
    database_url = f"sqlite:///{database}"
    variables = environment(DATABASE_URL=database_url, ISSUER=ISSUER, **CHEAP_HASHING)
    process = ForkedProcess("serve", "--port", str(port), directory=str(ROOT), variables=variables)
    service = RunningService(f"http://127.0.0.1:{port}", database_url)
    try:
        wait_until_ready(process, service.url, workers=1)
        yield service
    finally:
        service.close()
        process.kill()
        process.wait()


def all_come_to(guards: Iterable[Guard], token: str, refusal: type[GuardError] | None) -> bool:
    return comes_true(lambda: {refusal_of(guard, token) for guard in guards} == {refusal})


@pytest.fixture
def frequent_attempts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards try to reach the service every tenth of a second."""
    monkeypatch.setattr(outage, "FIRST_RETRY_SECONDS", 0.1)
    monkeypatch.setattr(outage, "LAST_RETRY_SECONDS", 0.1)
