"""examples/litserve_model: LitServe, closed to all but users by the guard's middleware."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.support.example_runs import from_readme
from tests.support.guards import comes_true
from tests.support.processes import environment, free_port
from tests.support.proxies import EXAMPLES
from tests.support.service_process import SERVE_TIMEOUT_SECONDS, serving
from tests.support.users import LANCELOT, bearer

EXAMPLE = "litserve_model"


@pytest.fixture(scope="module")
def hourpass(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    path = tmp_path_factory.mktemp("litserve") / "hourpass.db"
    with serving(f"sqlite:///{path}") as url, httpx.Client(base_url=url) as client:
        client.post("/register-user", json=LANCELOT)
        yield client


@pytest.fixture(scope="module")
def port(hourpass: httpx.Client, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    port = str(free_port())
    # LitServe 0.2 serves MCP too if mcp is installed, and fails with the mcp 2 of other tests.
    customization = tmp_path_factory.mktemp("customization")
    (customization / "sitecustomize.py").write_text('import sys; sys.modules["mcp"] = None')
    variables = environment(
        HOURPASS_URL=str(hourpass.base_url),
        LITSERVE_PORT=port,
        PYTHONPATH=os.pathsep.join([str(customization), os.environ.get("PYTHONPATH", "")]),
    )
    output = tmp_path_factory.mktemp("output") / "output"
    with output.open("wb") as writer:
        server = subprocess.Popen(
            [sys.executable, EXAMPLES / EXAMPLE / "server.py"],
            env=variables,
            stdout=writer,
            stderr=writer,
            start_new_session=True,  # it has processes of its own, which would outlive it
        )
    try:
        wait_until_ready(server, f"http://127.0.0.1:{port}/health", output)
        yield port
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait(SERVE_TIMEOUT_SECONDS)


def wait_until_ready(server: "subprocess.Popen[bytes]", url: str, output: Path) -> None:
    deadline = time.monotonic() + 3 * SERVE_TIMEOUT_SECONDS
    while time.monotonic() < deadline:
        assert server.poll() is None, output.read_text()
        try:
            if httpx.get(url).status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.1)
    raise AssertionError(output.read_text())


def test_the_readme_shows_a_prediction(
    hourpass: httpx.Client, port: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = hourpass.post("/token", json=LANCELOT).json()["token"]
    monkeypatch.setenv("TOKEN", token)
    printed = from_readme(EXAMPLE, "curl", {"LITSERVE_PORT": "9000"}, {"LITSERVE_PORT": port})
    assert printed == '{"species":"virginica"}'


def test_only_users_get_in(hourpass: httpx.Client, port: str) -> None:
    token = hourpass.post("/token", json=LANCELOT).json()["token"]
    flower = {"flower": [5.1, 3.5, 1.4, 0.2]}
    with httpx.Client(base_url=f"http://127.0.0.1:{port}") as api:
        for path in ("/docs", "/openapi.json", "/info", "/nowhere"):
            assert api.get(path).status_code == 401
        assert api.post("/predict", json=flower).status_code == 401
        answer = api.post("/predict", json=flower, headers=bearer(token))
        assert (answer.status_code, answer.json()) == (200, {"species": "setosa"})
        assert api.post("/predict", json={}, headers=bearer(token)).status_code == 422
        hourpass.post("/revoke", data={"token": token})
        assert comes_true(
            lambda: api.post("/predict", json=flower, headers=bearer(token)).status_code == 401
        )
