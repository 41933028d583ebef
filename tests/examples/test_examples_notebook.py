"""examples/notebook_client.py runs to its last cell, or stops at an unexpected response."""

import runpy
import subprocess
import sys
from collections.abc import Callable

import httpx
import pytest

from app.settings import ROOT
from tests.support.processes import environment
from tests.support.running_service import RunningService
from tests.support.servers import FINE, Answer, Api, Received, always
from tests.support.users import ARTHUR

pytest_plugins = ["tests.support.service_fixtures"]

ADMIN = {"ADMIN_USERNAME": ARTHUR["username"], "ADMIN_PASSWORD": ARTHUR["password"]}
PATH = "examples/notebook_client.py"


@pytest.fixture
def notebook(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Runs its cells in this process: a new interpreter would import for most of a second."""

    def run(*arguments: str, **variables: str) -> None:
        monkeypatch.setattr(sys, "argv", [PATH, *arguments])
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        runpy.run_path(str(ROOT / PATH), run_name="__main__")

    return run


def test_it_can_be_run_again_and_again(
    shared_service: RunningService,
    notebook: Callable[..., None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    variables = environment(PYTHONPATH=":".join(filter(None, sys.path)), **ADMIN)
    command = [sys.executable, PATH, "--url", shared_service.url]
    run = subprocess.run(
        command, cwd=ROOT, env=variables, capture_output=True, text=True, timeout=60, check=False
    )
    assert run.returncode == 0, run.stderr
    notebook("--url", shared_service.url, **ADMIN)
    for output in (run.stdout, capsys.readouterr().out):
        codes = [line.split(";")[0].split()[-1] for line in output.splitlines()]
        in_the_seed = ["201", "409", "401", "200", "200", "401"]
        assert codes[: len(in_the_seed)] == in_the_seed


def test_it_asks_an_api_for_a_prediction(
    shared_service: RunningService, notebook: Callable[..., None]
) -> None:
    def answer(request: Received) -> Answer:
        headers = {"Authorization": request.authorization or ""}
        return Answer(httpx.get(f"{shared_service.url}/verify", headers=headers).status_code)

    with Api(answer) as api:
        predict = ("--predict", f"{api.url}/predict", "--features", '{"petals": 5}')
        notebook(*predict, HOURPASS_URL=shared_service.url, **ADMIN)
    (request,) = api.received
    assert (request.method, request.path, request.body) == ("POST", "/predict", b'{"petals": 5}')


def test_a_refusal_of_the_api_stops_the_run(
    shared_service: RunningService, notebook: Callable[..., None]
) -> None:
    with Api(always(Answer(403))) as api:
        arguments = ("--url", shared_service.url, "--username", "bors", "--predict", api.url)
        with pytest.raises(SystemExit, match="Expected 200"):
            notebook(*arguments, **ADMIN)


def test_another_service_stops_the_run(notebook: Callable[..., None]) -> None:
    expected = pytest.raises(SystemExit, match="Expected 201 User created successfully")
    with Api(always(FINE)) as other, expected:
        notebook("--url", other.url, **ADMIN)


def test_it_says_what_it_needs(
    notebook: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ADMIN:
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(SystemExit, match="ADMIN_USERNAME"):
        notebook()
