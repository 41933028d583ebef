"""examples/notebook_client.py runs to its last cell, or stops at an unexpected response."""

import subprocess
import sys
from pathlib import Path

import httpx

from app.settings import ROOT
from tests.support.processes import environment
from tests.support.running_service import RunningService
from tests.support.servers import FINE, Answer, Api, Received, always
from tests.support.users import ARTHUR

pytest_plugins = ["tests.support.service_fixtures"]

ADMIN = {"ADMIN_USERNAME": ARTHUR["username"], "ADMIN_PASSWORD": ARTHUR["password"]}


def notebook(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(Path("examples") / "notebook_client.py"), *arguments]
    variables = environment(PYTHONPATH=":".join(filter(None, sys.path)), **variables)
    return subprocess.run(
        command, cwd=ROOT, env=variables, capture_output=True, text=True, timeout=60, check=False
    )


def test_it_can_be_run_again_and_again(shared_service: RunningService) -> None:
    for _ in range(2):
        run = notebook("--url", shared_service.url, **ADMIN)
        assert run.returncode == 0, run.stderr
    codes = [line.split(";")[0].split()[-1] for line in run.stdout.splitlines()]
    in_the_seed = ["201", "409", "401", "200", "200", "401"]
    assert codes[: len(in_the_seed)] == in_the_seed


def test_it_asks_an_api_for_a_prediction(shared_service: RunningService) -> None:
    def answer(request: Received) -> Answer:
        headers = {"Authorization": request.authorization or ""}
        return Answer(httpx.get(f"{shared_service.url}/verify", headers=headers).status_code)

    with Api(answer) as api:
        predict = ("--predict", f"{api.url}/predict", "--features", '{"petals": 5}')
        run = notebook(*predict, HOURPASS_URL=shared_service.url, **ADMIN)
    assert run.returncode == 0, run.stderr
    (request,) = api.received
    assert (request.method, request.path, request.body) == ("POST", "/predict", b'{"petals": 5}')


def test_a_refusal_of_the_api_stops_the_run(shared_service: RunningService) -> None:
    with Api(always(Answer(403))) as api:
        run = notebook(
            "--url", shared_service.url, "--username", "bors", "--predict", api.url, **ADMIN
        )
    assert run.returncode == 1
    assert "Expected 200" in run.stderr


def test_another_service_stops_the_run() -> None:
    with Api(always(FINE)) as other:
        run = notebook("--url", other.url, **ADMIN)
    assert run.returncode == 1
    assert "Expected 201 User created successfully" in run.stderr


def test_it_says_what_it_needs() -> None:
    run = notebook()
    assert run.returncode == 1
    assert "ADMIN_USERNAME" in run.stderr
