"""The guard as a dependency of FastAPI's routes."""

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Annotated, Any

import httpx
import pytest
from fastapi import Depends, FastAPI, WebSocket
from openapi_spec_validator import validate
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from hourpass import (
    Guard,
    GuardError,
    InsufficientScopeError,
    LoginError,
    ServiceUnavailableError,
    User,
)
from hourpass.testing import Issuer, authorization
from tests.support.servers import served

pytest_plugins = ["hourpass.testing"]

guard = Guard("https://hourpass.example")
api = FastAPI()


@api.get("/predict")
async def predict(user: Annotated[User, Depends(guard)]) -> str:
    return user.username


@api.get("/predict-on-a-thread")
def predict_on_a_thread(user: Annotated[User, Depends(guard)]) -> str:
    return user.username


@api.post("/train")
async def train(user: Annotated[User, Depends(guard.require("train", "predict"))]) -> str:
    return user.username


@api.get("/about")
async def about() -> str:
    return "the round table"


@api.websocket("/stream")
async def stream(socket: WebSocket, user: Annotated[User, Depends(guard)]) -> None:
    await socket.accept()
    await socket.send_text(user.username)
    await socket.close()


@pytest.fixture(autouse=True)
def issuer(hourpass_issuer: Issuer) -> Issuer:
    hourpass_issuer.attach(guard)
    return hourpass_issuer


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with served(api) as url:
        yield url


@pytest.fixture
def client(url: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=url) as client:
        yield client


def test_a_route_knows_its_user(
    client: httpx.Client, issuer: Issuer, subtests: pytest.Subtests
) -> None:
    for path in ("/predict", "/predict-on-a-thread"):
        for scheme in ("Bearer ", "bearer ", "BEARER  ", ""):
            with subtests.test(f"{path} {scheme}"):
                response = client.get(path, headers={"Authorization": scheme + issuer.token()})
                assert (response.status_code, response.json()) == (200, "lancelot")


def test_other_routes_stay_open(client: httpx.Client) -> None:
    assert client.get("/about").status_code == 200


@pytest.mark.parametrize(
    "headers", [{}, {"Authorization": "Basic bGFuY2Vsb3Q6eA=="}], ids=["none", "Basic"]
)
def test_a_missing_token_is_asked_for_without_an_error(
    client: httpx.Client, headers: dict[str, str]
) -> None:
    response = client.get("/predict", headers=headers)
    assert response.status_code == 401
    assert response.headers["WWW-Authenticate"] == 'Bearer realm="hourpass"'


@pytest.mark.parametrize(
    "values",
    [
        pytest.param(["Bearer"], id="the scheme alone"),
        pytest.param(["Bearer a b"], id="two words"),
        pytest.param(["Bearer ä"], id="not ASCII"),
        pytest.param(["one", "two"], id="two headers"),
    ],
)
def test_an_invalid_token_is_rejected(client: httpx.Client, values: list[str]) -> None:
    headers = [(b"authorization", value.encode()) for value in values]
    response = client.get("/predict", headers=headers)
    assert response.status_code == 401
    assert response.headers["WWW-Authenticate"].endswith('error="invalid_token"')


def test_two_tokens_in_two_headers_are_refused_though_both_are_valid(
    client: httpx.Client, issuer: Issuer
) -> None:
    """A proxy in front of the API may have checked the other one."""
    headers = [("Authorization", f"Bearer {issuer.token()}") for _ in range(2)]
    response = client.get("/predict", headers=headers)
    assert response.status_code == 401
    assert response.headers["WWW-Authenticate"].endswith('error="invalid_token"')


@pytest.mark.parametrize("kind", ["expired", "revoked", "forged", "foreign"])
def test_an_invalid_token_is_rejected_with_the_error_of_the_rfc(
    client: httpx.Client, issuer: Issuer, kind: str
) -> None:
    token: str = getattr(issuer, f"{kind}_token")()
    response = client.get("/predict", headers=authorization(token))
    assert response.status_code == 401
    assert response.headers["WWW-Authenticate"] == 'Bearer realm="hourpass", error="invalid_token"'
    assert token not in response.text


def test_a_route_can_require_scopes(client: httpx.Client, issuer: Issuer) -> None:
    enough = authorization(issuer.token("predict", "train", "admin"))
    assert client.post("/train", headers=enough).status_code == 200
    response = client.post("/train", headers=authorization(issuer.token("predict")))
    assert response.status_code == 403
    assert response.headers["WWW-Authenticate"] == (
        'Bearer realm="hourpass", error="insufficient_scope", scope="train predict"'
    )
    assert client.post("/train").status_code == 401


@pytest.mark.parametrize("scopes", [(), ("",), ("train predict",), ('"',)])
def test_an_invalid_scope_cannot_be_required(scopes: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="scopes"):
        guard.require(*scopes)


def test_an_undecided_check_is_a_503_with_retry_after(client: httpx.Client, issuer: Issuer) -> None:
    headers = authorization(issuer.token())
    assert client.get("/predict", headers=headers).status_code == 200
    with issuer.outage():
        response = client.get("/predict", headers=headers)
        assert response.status_code == 503
        assert int(response.headers["Retry-After"]) > 0
    assert client.get("/predict", headers=headers).status_code == 200


def test_a_websocket_knows_its_user_and_is_refused_before_it_is_accepted(
    url: str, issuer: Issuer
) -> None:
    address = f"{url.replace('http', 'ws')}/stream"
    with connect(address, additional_headers=authorization(issuer.token())) as socket:
        assert socket.recv() == "lancelot"
    for headers in ({}, authorization(issuer.expired_token())):
        with pytest.raises(InvalidStatus) as refusal:
            connect(address, additional_headers=headers)
        assert refusal.value.response.status_code == 403


def test_the_openapi_shows_which_routes_need_a_token_and_which_scopes() -> None:
    openapi: dict[str, Any] = api.openapi()
    validate(openapi)
    scheme = openapi["components"]["securitySchemes"]["Hourpass"]
    assert (scheme["scheme"], scheme["bearerFormat"]) == ("bearer", "JWT")
    assert openapi["paths"]["/predict"]["get"]["security"] == [{"Hourpass": []}]
    assert openapi["paths"]["/train"]["post"]["security"] == [{"Hourpass": ["train", "predict"]}]
    assert "security" not in openapi["paths"]["/about"]["get"]


def test_a_test_may_override_the_guard_as_any_dependency(client: httpx.Client) -> None:
    galahad = User(2, "galahad", frozenset({"train", "predict"}), datetime.now(UTC))
    api.dependency_overrides[guard] = lambda: galahad
    try:
        assert client.get("/predict").json() == "galahad"
        assert client.post("/train").json() == "galahad"
    finally:
        api.dependency_overrides.clear()


@pytest.mark.parametrize(
    ("error", "status", "code", "headers"),
    [
        (LoginError(), 401, "invalid_grant", {}),
        (
            InsufficientScopeError(),
            403,
            "insufficient_scope",
            {"WWW-Authenticate": 'Bearer realm="hourpass", error="insufficient_scope"'},
        ),
        (ServiceUnavailableError("why"), 503, "temporarily_unavailable", {"Retry-After": "2"}),
    ],
)
def test_an_api_can_answer_with_an_error_itself(
    error: GuardError, status: int, code: str, headers: dict[str, str]
) -> None:
    assert (error.status, error.code, error.headers()) == (status, code, headers)
    assert str(error) in ("why", error.message)
