"""examples/heart_failure_api: it trains a model, and records each prediction with its user."""

import json
import re
from collections.abc import Iterator

import httpx
import pytest

from tests.support.example_runs import from_readme, running
from tests.support.guards import comes_true
from tests.support.proxies import EXAMPLES
from tests.support.users import LANCELOT, bearer

EXAMPLE = "heart_failure_api"
PORTS = {"HOURPASS_PORT": "8000", "HEART_PORT": "9000"}
ADA = {"username": "ada", "password": "notes-on-the-engine"}
SOURCE = (EXAMPLES / EXAMPLE / "ask.py").read_text()
PATIENT = json.loads("".join(re.findall(r"^    '(.*)'$", SOURCE, re.MULTILINE)))


@pytest.fixture(scope="module")
def ports(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    with running(EXAMPLE, PORTS, "200 {", tmp_path_factory.mktemp("heart")) as ports:
        yield ports


@pytest.fixture
def hourpass(ports: dict[str, str]) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=f"http://127.0.0.1:{ports['HOURPASS_PORT']}") as client:
        yield client


@pytest.fixture
def api(ports: dict[str, str]) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=f"http://127.0.0.1:{ports['HEART_PORT']}") as client:
        yield client


@pytest.fixture
def token(hourpass: httpx.Client) -> str:
    """A token of Lancelot, who has no predictions yet."""
    hourpass.post("/register-user", json=LANCELOT)
    token: str = hourpass.post("/token", json=LANCELOT).json()["token"]
    return token


def test_one_command_leads_to_a_prediction_and_the_readme_shows_it(ports: dict[str, str]) -> None:
    printed = from_readme(EXAMPLE, "TOKEN=", PORTS, ports)
    (prediction,) = json.loads(printed)
    said = re.search(r'"probability":([\d.]+)', (EXAMPLES / EXAMPLE / "README.md").read_text())
    assert said
    assert prediction["probability"] == float(said[1])


def test_each_user_sees_their_own_predictions(api: httpx.Client, token: str) -> None:
    healthy = {**PATIENT, "cp": 3, "ca": 0, "exang": 0, "oldpeak": 0, "thalach": 170, "age": 40}
    predicted = api.post("/predict", json=healthy, headers=bearer(token))
    assert predicted.status_code == 200
    assert predicted.json()["probability"] < 0.5
    assert api.get("/predictions", headers=bearer(token)).json() == [predicted.json()]


def test_a_request_without_a_valid_token_gets_no_prediction(
    hourpass: httpx.Client, api: httpx.Client, token: str
) -> None:
    assert api.post("/predict", json=PATIENT).status_code == 401
    assert api.get("/predictions").status_code == 401
    assert api.get("/predictions", headers=bearer(token)).status_code == 200
    hourpass.post("/revoke", data={"token": token})
    assert comes_true(lambda: api.get("/predictions", headers=bearer(token)).status_code == 401)
    assert api.post("/predict", json=PATIENT, headers=bearer(token)).status_code == 401


def test_invalid_patient_data_is_rejected_without_repeating_it(
    api: httpx.Client, token: str, subtests: pytest.Subtests
) -> None:
    headers = {**bearer(token), "Content-Type": "application/json"}
    for body in (
        "{}",
        "[]",
        "{",
        json.dumps({**PATIENT, "oldpeak": float("nan")}),
        json.dumps({**PATIENT, "oldpeak": float("inf")}),
        json.dumps({**PATIENT, "age": 10**30}),
        json.dumps({**PATIENT, "thal": "broken"}),
        json.dumps({**PATIENT, "name": "Gawain"}),
    ):
        with subtests.test(body):
            response = api.post("/predict", content=body, headers=headers)
            assert response.status_code == 422
            assert response.json()["fields"]
            assert "Gawain" not in response.text
            assert "broken" not in response.text


def test_its_page_says_which_routes_are_locked(api: httpx.Client) -> None:
    described = api.get("/openapi.json").json()
    for path, method in (("/predict", "post"), ("/predictions", "get")):
        assert described["paths"][path][method]["security"] == [{"Hourpass": []}]
