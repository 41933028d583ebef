"""examples/litserve_model: LitServe, protected by the guard's middleware."""

from collections.abc import Iterator

import httpx
import pytest

from tests.support.api_process import running_api
from tests.support.example_runs import EXAMPLES_PYTHON, from_readme
from tests.support.guards import comes_true
from tests.support.processes import environment, free_port
from tests.support.proxies import EXAMPLES
from tests.support.service_process import serving
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
    command = [EXAMPLES_PYTHON, EXAMPLES / EXAMPLE / "server.py"]
    variables = environment(HOURPASS_URL=str(hourpass.base_url), LITSERVE_PORT=port)
    url = f"http://127.0.0.1:{port}/health"
    with running_api(command, variables, url, tmp_path_factory.mktemp("litserve_model")):
        yield port


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
