"""HourpassAuth for an account with a second factor asks for a code only when it needs one."""

import logging
from datetime import timedelta

import pytest

from hourpass import LoginError
from tests.support.authenticator import STEP, Authenticator
from tests.support.http_clients import ClientService, by_httpx
from tests.support.users import LANCELOT, bearer

pytest_plugins = ["tests.support.client_fixtures"]

HOUR = timedelta(hours=1)


@pytest.fixture
def authenticator(service: ClientService) -> Authenticator:
    """Lancelot needs a code from now on."""
    headers = bearer(service.client.post("/token", json=service.user).json()["token"])
    sent = {"password": LANCELOT["password"]}
    begun = service.client.post("/me/second-factor", json=sent, headers=headers).json()
    authenticator = Authenticator(begun["otpauth_uri"], service.clock)
    code = {"otp": authenticator.code()}
    answer = service.client.post("/me/second-factor/confirm", json=code, headers=headers)
    assert answer.status_code == 200, answer.text
    service.clock.advance(STEP)
    return authenticator


def test_a_session_asks_for_one_code(service: ClientService, authenticator: Authenticator) -> None:
    asked = 0

    def otp() -> str:
        nonlocal asked
        asked += 1
        return authenticator.code()

    auth = service.auth(scopes=["offline_access"], otp=otp)
    for _ in range(4):
        assert by_httpx(auth, "GET", f"{service.url}/me").status_code == 200
        service.clock.advance(HOUR)
    assert asked == 1
    assert service.transport.grants() == ["password", *["refresh_token"] * 3]


def test_without_a_session_each_login_asks_for_one(
    service: ClientService, authenticator: Authenticator
) -> None:
    auth = service.auth(otp=authenticator.code)
    for _ in range(2):
        assert by_httpx(auth, "GET", f"{service.url}/me").status_code == 200
        service.clock.advance(HOUR)
    assert service.transport.grants() == ["password", "password"]


@pytest.mark.usefixtures("authenticator")
def test_without_a_code_the_error_says_what_to_pass(service: ClientService) -> None:
    auth = service.auth()
    for _ in range(2):
        with pytest.raises(LoginError, match="has a second factor, so otp= has to give a code"):
            by_httpx(auth, "GET", f"{service.url}/me")
    assert service.transport.grants() == ["password"]


def test_a_wrong_code_is_an_error_that_does_not_repeat_it(
    service: ClientService, authenticator: Authenticator, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    code = authenticator.wrong_code()
    auth = service.auth(otp=lambda: code)
    with pytest.raises(LoginError, match="the code is wrong") as raised:
        by_httpx(auth, "GET", f"{service.url}/me")
    assert code not in str(raised.value) + caplog.text


def test_an_otp_that_raises_is_a_login_error_without_its_text(service: ClientService) -> None:
    def otp() -> str:
        raise RuntimeError("the key is JBSWY3DP")

    auth = service.auth(otp=otp)
    with pytest.raises(LoginError, match="otp raised RuntimeError") as raised:
        by_httpx(auth, "GET", f"{service.url}/me")
    assert "JBSWY3DP" not in str(raised.value)
    assert service.transport.grants() == []
