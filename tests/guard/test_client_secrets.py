"""HourpassAuth sends its password to the service alone, and keeps secrets out of texts."""

import copy
import logging
import pickle
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from hourpass import HourpassAuth, LoginError, ServiceUnavailableError
from tests.support.http_clients import CALLS, Call, ClientService, by_httpx
from tests.support.servers import FINE, INVALID_TOKEN, Answer, Api, Received, always

pytest_plugins = ["tests.support.client_fixtures"]

every_library = pytest.mark.parametrize("call", CALLS)


@every_library
def test_a_redirect_to_another_origin_takes_no_token_along(
    service: ClientService, auth: HourpassAuth, call: Call
) -> None:
    with Api(always(INVALID_TOKEN)) as morgan:

        def to_morgan(_: Received) -> Answer:
            return Answer(307, {"Location": f"{morgan.url}/lure"})

        with Api(to_morgan) as api:
            assert call(auth, "GET", api.url).status_code == 401
    assert [request.authorization for request in morgan.received] == [None]
    # The answer of another server does not revoke a token that it never received.
    assert len(service.transport.grants()) == 1


def test_the_password_does_not_follow_a_redirect() -> None:
    with Api(always(FINE)) as morgan:

        def to_morgan(_: Received) -> Answer:
            return Answer(307, {"Location": f"{morgan.url}/token"})

        with Api(to_morgan) as service, pytest.raises(ServiceUnavailableError, match="307"):
            by_httpx(HourpassAuth(service.url, "lancelot", "secret"), "GET", morgan.url)
    assert morgan.received == []


def test_a_proxy_of_the_environment_sees_no_password(
    service: ClientService, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Api(always(FINE)) as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy.url)
        auth = HourpassAuth(service.url, service.user["username"], service.user["password"])
        with httpx.Client(auth=auth, trust_env=False) as client:
            assert client.get(f"{service.url}/me").status_code == 200
    assert proxy.received == []


@every_library
def test_a_refused_login_says_so_without_the_password(
    service: ClientService, caplog: pytest.LogCaptureFixture, call: Call
) -> None:
    caplog.set_level(logging.DEBUG)
    auth = service.auth(password="excalibur!")
    for _ in range(3):
        with pytest.raises(LoginError, match="wrong, or the account is disabled") as raised:
            call(auth, "GET", f"{service.url}/me")
        assert "excalibur" not in str(raised.value)
        assert raised.value.__cause__ is raised.value.__context__ is None
    assert service.transport.grants() == ["password"]  # a wrong password does not become right
    assert "gives no token" in caplog.text
    assert "excalibur" not in caplog.text + repr(auth)


def test_neither_repr_nor_logs_show_a_token(
    service: ClientService, auth: HourpassAuth, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "hourpass")
    with Api(always(FINE)) as api:
        by_httpx(auth, "GET", api.url)
    token = (api.received[0].authorization or "").removeprefix("Bearer ")
    held = auth._tokens._held
    assert repr(auth) == f"HourpassAuth('{service.url}', '{service.user['username']}')"
    assert token not in repr(held) + repr(vars(auth)) + caplog.text


@pytest.mark.parametrize(
    "url",
    [
        pytest.param("http://login.example", id="plain http"),
        pytest.param("http://hourpass:8000", id="plain http in a compose network"),
        pytest.param("https://lancelot:secret@login.example", id="password in the URL"),
        pytest.param("login.example", id="no scheme"),
        pytest.param("ftp://login.example", id="another scheme"),
    ],
)
def test_an_unsafe_address_is_refused_at_once(url: str) -> None:
    with pytest.raises(ValueError, match=r"http|URL") as raised:
        HourpassAuth(url, "lancelot", "secret")
    assert "secret" not in str(raised.value)


@every_library
def test_a_token_is_not_sent_over_plain_http(call: Call) -> None:
    auth = HourpassAuth("https://login.example", "lancelot", "secret")
    with pytest.raises(ValueError, match="allow_http"):
        call(auth, "GET", "http://api.example/predict")


def test_plain_http_can_be_allowed_by_name() -> None:
    network = httpx.MockTransport(
        lambda _: httpx.Response(200, json={"access_token": "a.b.c", "expires_in": 3600})
    )
    auth = HourpassAuth(
        "http://hourpass:8000", "lancelot", "secret", allow_http=True, transport=network
    )
    with httpx.Client(auth=auth, transport=network) as client:
        response = client.get("http://model:9000/predict")
    assert response.request.headers["Authorization"] == "Bearer a.b.c"


@pytest.mark.parametrize(
    "url", ["http://localhost:8000", "http://127.0.0.1:8000", "http://[::1]:8000", "https://x.test"]
)
def test_this_machine_and_tls_need_no_permission(url: str) -> None:
    HourpassAuth(url, "lancelot", "secret")


def test_half_a_surrogate_pair_is_refused_without_being_quoted() -> None:
    with pytest.raises(ValueError, match="surrogate") as raised:
        HourpassAuth("https://login.example", "lancelot", "secret\ud800")
    assert type(raised.value) is ValueError


@pytest.mark.parametrize("duplicate", [pickle.dumps, copy.copy, copy.deepcopy])
def test_it_cannot_be_pickled_or_copied(duplicate: Callable[..., Any]) -> None:
    auth = HourpassAuth("https://login.example", "lancelot", "secret")
    with pytest.raises(TypeError, match="one in each worker process"):
        duplicate(auth)
