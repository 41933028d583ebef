"""Each login of HourpassAuth runs in a thread of its own, and its result is used with care."""

import logging
import socket
import sys
import threading
import time
from collections.abc import Callable
from types import FrameType
from urllib.parse import parse_qsl

import httpx
import pytest

from hourpass import HourpassAuth, ServiceUnavailableError
from hourpass.client.auth import running_time
from hourpass.client.token_source import TokenSource
from tests.support.guards import comes_true
from tests.support.http_clients import settle
from tests.support.servers import FINE, INVALID_TOKEN

HOUR = 3_600


class LoginService(httpx.BaseTransport):
    """A login service in this process. It issues a new token to each login."""

    def __init__(self) -> None:
        self.logins = 0
        self.revoked: list[str] = []
        self.threads: list[threading.Thread] = []
        self.before_answer: Callable[[], None] = lambda: None
        self.answer: httpx.Response | None = None  # instead of a token

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        form = dict(parse_qsl(request.read().decode()))
        if request.url.path == "/revoke":
            self.revoked.append(form["token"])
            return httpx.Response(200)
        self.logins += 1
        self.threads.append(threading.current_thread())
        self.before_answer()
        token = {"access_token": f"token {self.logins}", "expires_in": HOUR}
        return self.answer or httpx.Response(200, json={**token, "refresh_token": "r.s.t"})


@pytest.fixture
def service() -> LoginService:
    return LoginService()


class Api:
    """Calls an API with `auth`, which stands still in time unless a test moves `now`."""

    def __init__(self, service: LoginService) -> None:
        self.now = 1_000.0
        self.refused: set[str] = set()
        self.auth = HourpassAuth(
            "https://login.example", "lancelot", "secret", clock=lambda: self.now, transport=service
        )

    def call(self) -> list[str]:
        """The tokens that the API got, one after the other."""
        got: list[str] = []

        def answer(request: httpx.Request) -> httpx.Response:
            got.append(request.headers["Authorization"].removeprefix("Bearer "))
            is_refused = got[-1] in self.refused or "all" in self.refused
            reply = INVALID_TOKEN if is_refused else FINE
            return httpx.Response(reply.status, headers=reply.headers)

        transport = httpx.MockTransport(answer)
        with httpx.Client(auth=self.auth, transport=transport) as client:
            client.get("https://api.example")
        return got


@pytest.fixture
def api(service: LoginService) -> Api:
    return Api(service)


def is_waiting(thread: threading.Thread) -> bool:
    """For another thread."""
    frame: FrameType | None = sys._current_frames().get(thread.ident or 0)
    return frame is not None and frame.f_code.co_filename == threading.__file__


def test_closing_during_a_login_revokes_the_token_that_it_brings(
    service: LoginService, api: Api
) -> None:
    closing = threading.Thread(target=api.auth.close)

    def close() -> None:
        closing.start()
        assert comes_true(lambda: is_waiting(closing) or not closing.is_alive())

    service.before_answer = close
    assert api.call() == ["token 1"]
    closing.join()
    assert service.revoked == ["r.s.t"]


def test_a_login_does_not_keep_a_program_from_ending(service: LoginService, api: Api) -> None:
    api.call()
    assert [thread.daemon for thread in service.threads] == [True]


def test_an_api_that_refuses_every_token_causes_a_login_each_half_minute(
    api: Api,
) -> None:
    api.refused.add("all")
    assert api.call() == ["token 1", "token 2"]
    api.now += 29.9
    assert api.call() == ["token 2"]
    api.now += 0.1
    assert api.call() == ["token 2", "token 3"]


def test_a_token_that_was_renewed_in_time_is_replaced_at_its_first_refusal(
    api: Api,
) -> None:
    api.call()
    api.now += HOUR - 300
    assert api.call() == ["token 1"]
    settle(api.auth)
    api.refused.add("token 2")
    assert api.call() == ["token 2", "token 3"]


def test_each_caller_gets_an_error_of_its_own(service: LoginService, api: Api) -> None:
    """Raised twice, one error would have the tracebacks of both threads."""
    service.answer = httpx.Response(500)
    errors = []
    for _ in range(2):
        with pytest.raises(ServiceUnavailableError) as raised:
            api.call()
        errors.append(raised.value)
    assert errors[0] is not errors[1]
    assert service.logins == 1


@pytest.mark.parametrize("said", [b"\xb2", b"1.5", b"-1", b""], ids=ascii)
def test_a_wait_that_is_no_number_of_seconds_is_not_waited_for(
    service: LoginService, api: Api, said: bytes
) -> None:
    """RFC 9110, 10.2.3. To Python, a superscript two is a digit."""
    service.answer = httpx.Response(503, headers=[(b"Retry-After", said)])
    with pytest.raises(ServiceUnavailableError, match="answers a login with 503"):
        api.call()


def test_what_a_client_logs_has_the_name_of_the_package(
    service: LoginService, api: Api, caplog: pytest.LogCaptureFixture
) -> None:
    service.answer = httpx.Response(500)
    with caplog.at_level(logging.WARNING), pytest.raises(ServiceUnavailableError):
        api.call()
    assert [record.name for record in caplog.records] == ["hourpass.client"]


def test_a_refresh_token_is_in_no_repr(api: Api) -> None:
    api.call()
    held = api.auth._tokens._held
    assert held
    assert held.refresh_token == "r.s.t"
    assert "r.s.t" not in repr(held)


def test_threads_change_the_login_that_they_share_one_at_a_time(
    service: LoginService, api: Api
) -> None:
    unguarded: list[str] = []

    class Guarded(TokenSource):
        def __setattr__(self, name: str, value: object) -> None:
            if name in ("_held", "_renewal", "_failure") and not self._lock.locked():
                unguarded.append(name)
            super().__setattr__(name, value)

    api.auth._tokens.__class__ = Guarded
    api.call()
    api.auth.close()
    service.answer = httpx.Response(500)
    with pytest.raises(ServiceUnavailableError):
        api.call()
    assert unguarded == []


def test_a_password_may_go_through_the_proxy_of_the_environment_with_https(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The proxy only sees to which host it goes."""
    with socket.create_server(("127.0.0.1", 0)) as proxy:
        received: list[bytes] = []

        def listen() -> None:
            connection, _ = proxy.accept()
            with connection:
                received.append(connection.recv(65536))

        listening = threading.Thread(target=listen)
        listening.start()
        for name in ("NO_PROXY", "no_proxy", "https_proxy"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{proxy.getsockname()[1]}")
        auth = HourpassAuth("https://login.example", "lancelot", "secret")
        with pytest.raises(ServiceUnavailableError):
            auth._tokens.token()
        listening.join()
    assert received[0].startswith(b"CONNECT login.example:443 ")
    assert b"secret" not in received[0]


@pytest.mark.parametrize(("platform", "seconds"), [("linux", 7.0), ("darwin", 3.0)])
def test_the_age_of_a_token_is_told_by_a_clock_that_nobody_can_set(
    monkeypatch: pytest.MonkeyPatch, platform: str, seconds: float
) -> None:
    """On Linux, by one that does not stand still while a laptop sleeps."""
    with monkeypatch.context() as patched:
        patched.setattr(sys, "platform", platform)
        patched.setattr(time, "clock_gettime", {time.CLOCK_BOOTTIME: 7.0}.__getitem__)
        patched.setattr(time, "monotonic", lambda: 3.0)
        found = running_time()
    assert found == seconds
