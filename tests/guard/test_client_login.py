"""Logins of HourpassAuth: threads, errors, retries, and how the token is used."""

import asyncio
import inspect
import io
import logging
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterable
from types import FrameType
from typing import Any, cast
from urllib.parse import parse_qsl

import httpx
import pytest
import requests
import requests.adapters

from hourpass import HourpassAuth, ServiceUnavailableError
from hourpass.client.token_source import TokenSource
from tests.support.guards import comes_true
from tests.support.http_clients import settle
from tests.support.servers import FINE, INVALID_TOKEN

HOUR = 3_600


class LoginService(httpx.BaseTransport):
    """A login service in this process. It issues a new token to each login."""

    def __init__(self) -> None:
        self.logins = 0
        self.forms: list[dict[str, str]] = []
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
        self.forms.append(form)
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


@pytest.mark.parametrize(
    ("platform", "clocks", "seconds"),
    [
        ("linux", {"CLOCK_BOOTTIME": 7.0, "CLOCK_MONOTONIC_RAW": 3.0}, 7.0),
        ("darwin", {"CLOCK_MONOTONIC_RAW": 7.0, "CLOCK_UPTIME_RAW": 3.0}, 7.0),
        ("win32", {}, 5.0),
    ],
)
def test_the_age_of_a_token_is_measured_with_a_monotonic_clock(
    monkeypatch: pytest.MonkeyPatch, platform: str, clocks: dict[str, float], seconds: float
) -> None:
    """The clock runs on while a laptop sleeps. On Windows, Python's own clock does."""
    clock = inspect.signature(HourpassAuth).parameters["clock"].default
    with monkeypatch.context() as patched:
        patched.setattr(sys, "platform", platform)
        for name in filter(lambda name: name.startswith("CLOCK_"), dir(time)):
            patched.delattr(time, name)
        for name in clocks:
            patched.setattr(time, name, name, raising=False)
        patched.setattr(time, "clock_gettime", clocks.__getitem__)
        patched.setattr(time, "monotonic", lambda: 5.0)
        found = clock()
    assert found == seconds


@pytest.mark.parametrize(
    ("scopes", "sent"),
    [
        ((), {"exclude_scope": "admin"}),
        ("administer", {"scope": "administer", "exclude_scope": "admin"}),
        (["predict", "admin"], {"scope": "predict admin"}),
    ],
    ids=["none", "one that only begins like it", "admin"],
)
def test_an_administrator_has_to_ask_for_the_scope_admin(
    service: LoginService, scopes: Iterable[str], sent: dict[str, str]
) -> None:
    auth = HourpassAuth(
        "https://login.example", "lancelot", "secret", scopes=scopes, transport=service
    )
    next(auth.sync_auth_flow(httpx.Request("GET", "https://api.example")))
    credentials = {"username": "lancelot", "password": "secret"}
    assert service.forms == [{"grant_type": "password", **credentials, **sent}]


def test_an_address_without_a_host_is_refused() -> None:
    with pytest.raises(ValueError, match="URL"):
        HourpassAuth("https://", "lancelot", "secret")


def test_only_a_401_calls_a_token_invalid(api: Api) -> None:
    reply = httpx.Response(403, headers=INVALID_TOKEN.headers)
    transport = httpx.MockTransport(lambda _: reply)
    with httpx.Client(auth=api.auth, transport=transport) as client:
        response = client.get("https://api.example")
    assert (response.status_code, response.history) == (403, [])


class RefusingAdapter(requests.adapters.BaseAdapter):
    """For requests: refuses the first token, and writes down what it was asked to send."""

    def __init__(self) -> None:
        super().__init__()
        self.sent: list[tuple[object, dict[str, Any]]] = []

    def send(  # type: ignore[override] # its options are noted, whatever they are
        self, request: requests.PreparedRequest, **options: Any
    ) -> requests.Response:
        self.sent.append((request.body, options))
        response: Any = requests.Response()
        response.status_code = 401 if len(self.sent) == 1 else 200
        response.headers.update(INVALID_TOKEN.headers)
        response.url, response.request, response.connection = request.url, request, self
        response.raw = io.BytesIO()
        return cast("requests.Response", response)

    def close(self) -> None:
        pass


@pytest.mark.parametrize("body", ["told", b"told", None], ids=["text", "bytes", "none"])
def test_requests_repeats_a_request_with_its_options(api: Api, body: str | bytes | None) -> None:
    adapter = RefusingAdapter()
    with requests.Session() as session:
        session.mount("https://", adapter)
        options: dict[str, Any] = {"auth": api.auth, "timeout": 7, "verify": "ca.pem"}
        response = session.post("https://api.example", data=body, **options)
    assert response.status_code == 200
    first, second = adapter.sent
    assert first == second
    assert (first[0], first[1]["timeout"], first[1]["verify"]) == (body, 7, "ca.pem")


def test_a_small_body_that_a_task_streams_is_kept_for_a_repetition(api: Api) -> None:
    bodies: list[bytes] = []

    async def tale() -> AsyncIterator[bytes]:
        yield b"told"

    class Streaming(httpx.AsyncBaseTransport):
        """Unlike httpx.MockTransport, it does not keep the body itself."""

        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            stream = cast("httpx.AsyncByteStream", request.stream)
            bodies.append(b"".join([part async for part in stream]))
            reply = INVALID_TOKEN if len(bodies) == 1 else FINE
            return httpx.Response(reply.status, headers=reply.headers)

    async def call() -> int:
        transport = Streaming()
        async with httpx.AsyncClient(auth=api.auth, transport=transport) as client:
            headers = {"Content-Length": "4"}
            url = "https://api.example"
            return (await client.post(url, content=tale(), headers=headers)).status_code

    assert asyncio.run(call()) == 200
    assert bodies == [b"told", b"told"]


def test_a_body_for_the_other_kind_of_client_gets_the_error_of_the_library(api: Api) -> None:
    """Not one of the attempt to keep it."""

    async def tale() -> AsyncIterator[bytes]:
        yield b"told"

    headers = {"Content-Length": "4"}
    fine = httpx.MockTransport(lambda _: httpx.Response(200))
    with (
        httpx.Client(auth=api.auth, transport=fine) as client,
        pytest.raises(RuntimeError, match="sync Client"),
    ):
        client.post("https://api.example", content=tale(), headers=headers)

    async def call() -> None:
        async with httpx.AsyncClient(auth=api.auth, transport=fine) as client:
            await client.post("https://api.example", content=iter([b"told"]), headers=headers)

    with pytest.raises(RuntimeError, match="AsyncClient"):
        asyncio.run(call())
