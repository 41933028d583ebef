"""HourpassAuth sends a token to the API where it was attached, and nothing to anybody else."""

import copy
import io
import logging
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import requests

from app.database import utc_now
from app.main import create_app
from hourpass import HourpassAuth, LoginError, ServiceUnavailableError
from tests.clients import CALLS, Call, Line, by_async_httpx, by_httpx, by_requests
from tests.conftest import environment, free_port, make_settings
from tests.people import GALAHAD, LANCELOT, said_in
from tests.sockets import INVALID_TOKEN, Answer, Api, Received, served

every_library = pytest.mark.parametrize("call", CALLS)

FINE = Answer(200)


@pytest.fixture(scope="module")
def service(sqlite_template: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """One for all tests here. Lancelot is known to it."""
    path = tmp_path_factory.mktemp("client") / "hourpass.db"
    shutil.copy(sqlite_template, path)
    settings = make_settings(f"sqlite:///{path}", log_level="warning")
    with served(create_app(settings, utc_now)) as url:
        assert httpx.post(f"{url}/register-user", json=LANCELOT).status_code == 201
        yield url


@pytest.fixture
def line() -> Line:
    return Line()


@pytest.fixture
def lancelot(service: str, line: Line) -> HourpassAuth:
    return HourpassAuth(service, LANCELOT["username"], LANCELOT["password"], transport=line)


def always(answer: Answer) -> Callable[[Received], Answer]:
    return lambda _: answer


def refuses_the_first(count: int) -> Callable[[Received], Answer]:
    """An API that calls the first tokens that it sees invalid."""
    refused: list[str | None] = []

    def answer(request: Received) -> Answer:
        if request.authorization not in refused and len(refused) < count:
            refused.append(request.authorization)
        return INVALID_TOKEN if request.authorization in refused else FINE

    return answer


@every_library
def test_an_api_sees_who_is_calling(service: str, lancelot: HourpassAuth, call: Call) -> None:
    answer = call(lancelot, "GET", f"{service}/me")
    assert answer.status_code == 200
    assert answer.json()["username"] == LANCELOT["username"]


def test_one_login_serves_every_library(service: str, lancelot: HourpassAuth, line: Line) -> None:
    for call in CALLS * 2:
        assert call(lancelot, "GET", f"{service}/me").status_code == 200
    assert line.grants() == ["password"]


def test_requests_takes_it_for_a_single_call_too(service: str, lancelot: HourpassAuth) -> None:
    assert requests.get(f"{service}/me", auth=lancelot).status_code == 200


@every_library
def test_a_refused_token_is_replaced_and_the_request_repeated(
    lancelot: HourpassAuth, line: Line, call: Call
) -> None:
    with Api(refuses_the_first(1)) as api:
        answer = call(lancelot, "POST", f"{api.url}/predict", json={"petals": 5})
    assert answer.status_code == 200
    first, second = api.received
    assert first.body == second.body != b""
    assert first.authorization != second.authorization
    assert [earlier.status_code for earlier in answer.history] == [401]
    assert line.grants() == ["password", "password"]


@every_library
def test_a_fresh_token_that_is_refused_too_is_the_callers_business(
    lancelot: HourpassAuth, line: Line, call: Call
) -> None:
    with Api(always(INVALID_TOKEN)) as api:
        assert call(lancelot, "GET", api.url).status_code == 401
        assert len(api.received) == 2
        # Nor does the service have to pay for an API that refuses everything.
        for _ in range(5):
            assert call(lancelot, "GET", api.url).status_code == 401
    assert len(api.received) == 2 + 5
    assert line.grants() == ["password", "password"]


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(Answer(401), id="no challenge"),
        pytest.param(Answer(401, {"WWW-Authenticate": "Bearer"}), id="no token seen"),
        pytest.param(
            Answer(403, {"WWW-Authenticate": 'Bearer error="insufficient_scope"'}), id="no scope"
        ),
    ],
)
@every_library
def test_other_refusals_go_to_the_caller(
    lancelot: HourpassAuth, line: Line, call: Call, answer: Answer
) -> None:
    with Api(always(answer)) as api:
        assert call(lancelot, "GET", api.url).status_code == answer.status
    assert len(api.received) == len(line.grants()) == 1


@every_library
def test_an_uploaded_file_is_repeated(lancelot: HourpassAuth, call: Call) -> None:
    with Api(refuses_the_first(1)) as api:
        files = {"image": ("grail.png", io.BytesIO(b"a cup"), "image/png")}
        assert call(lancelot, "POST", api.url, files=files).status_code == 200
    first, second = api.received
    assert b"a cup" in first.body
    assert first.body == second.body


@pytest.mark.parametrize(
    ("call", "body"),
    [
        pytest.param(by_httpx, {"content": iter([b"to", b"ld"])}, id="httpx"),
        pytest.param(by_requests, {"data": iter([b"to", b"ld"])}, id="requests"),
        pytest.param(by_requests, {"data": io.BytesIO(b"told")}, id="requests, a file"),
    ],
)
def test_a_streamed_body_is_sent_once(
    lancelot: HourpassAuth, call: Call, body: dict[str, Any]
) -> None:
    with Api(refuses_the_first(1)) as api:
        assert call(lancelot, "POST", api.url, **body).status_code == 401
    assert [request.body for request in api.received] == [b"told"]


def test_a_body_streamed_by_a_task_is_sent_once(lancelot: HourpassAuth) -> None:
    async def tale() -> Any:
        yield b"told"

    with Api(refuses_the_first(1)) as api:
        assert by_async_httpx(lancelot, "POST", api.url, content=tale()).status_code == 401
    assert [request.body for request in api.received] == [b"told"]


@every_library
def test_a_redirect_to_another_origin_takes_no_token_along(
    lancelot: HourpassAuth, line: Line, call: Call
) -> None:
    with Api(always(INVALID_TOKEN)) as morgan:

        def to_morgan(_: Received) -> Answer:
            return Answer(307, {"Location": f"{morgan.url}/lure"})

        with Api(to_morgan) as api:
            assert call(lancelot, "GET", api.url).status_code == 401
    assert [request.authorization for request in morgan.received] == [None]
    assert len(line.grants()) == 1  # nor does her answer end a token that she has not seen


@every_library
def test_after_a_redirect_only_the_refused_request_is_repeated(
    lancelot: HourpassAuth, call: Call
) -> None:
    refusing = refuses_the_first(1)

    def answer(request: Received) -> Answer:
        if request.method == "POST":
            return Answer(303, {"Location": "/jobs/1"})
        return refusing(request)

    with Api(answer) as api:
        assert call(lancelot, "POST", f"{api.url}/jobs").status_code == 200
    assert [request.method for request in api.received] == ["POST", "GET", "GET"]


def test_the_password_does_not_follow_a_redirect() -> None:
    with Api(always(FINE)) as morgan:

        def to_morgan(_: Received) -> Answer:
            return Answer(307, {"Location": f"{morgan.url}/token"})

        with Api(to_morgan) as service, pytest.raises(ServiceUnavailableError, match="307"):
            by_httpx(HourpassAuth(service.url, "lancelot", "secret"), "GET", morgan.url)
    assert morgan.received == []


def test_a_proxy_of_the_environment_sees_no_password(
    service: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Api(always(FINE)) as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy.url)
        auth = HourpassAuth(service, LANCELOT["username"], LANCELOT["password"])
        with httpx.Client(auth=auth, trust_env=False) as client:
            assert client.get(f"{service}/me").status_code == 200
    assert proxy.received == []


@pytest.mark.parametrize("name", ["lancelot", "mordred"], ids=["wrong password", "unknown user"])
@every_library
def test_a_refused_login_says_so_without_the_password(
    service: str, line: Line, caplog: pytest.LogCaptureFixture, call: Call, name: str
) -> None:
    caplog.set_level(logging.DEBUG)
    auth = HourpassAuth(service, name, "excalibur!", transport=line)
    for _ in range(3):
        with pytest.raises(LoginError, match="wrong, or the account is disabled") as raised:
            call(auth, "GET", f"{service}/me")
        assert "excalibur" not in str(raised.value)
        assert raised.value.__cause__ is raised.value.__context__ is None
    assert line.grants() == ["password"]  # a wrong password does not become right
    assert "gives no token" in caplog.text
    assert "excalibur" not in caplog.text + repr(auth)


def test_neither_repr_nor_logs_show_a_token(
    service: str, lancelot: HourpassAuth, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "hourpass")
    with Api(always(FINE)) as api:
        by_httpx(lancelot, "GET", api.url)
    token = (api.received[0].authorization or "").removeprefix("Bearer ")
    held = lancelot._login._held
    assert repr(lancelot) == f"HourpassAuth('{service}', 'lancelot')"
    assert token not in repr(held) + repr(vars(lancelot)) + caplog.text


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
def test_a_token_is_not_sent_over_plain_http(lancelot: HourpassAuth, call: Call) -> None:
    with pytest.raises(ValueError, match="allow_http"):
        call(lancelot, "GET", "http://api.example/predict")


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


@pytest.mark.parametrize("scopes", ["offline_access", ["offline_access"]], ids=["text", "list"])
def test_scopes_are_asked_for(service: str, line: Line, scopes: Any) -> None:
    auth = HourpassAuth(
        service, LANCELOT["username"], LANCELOT["password"], scopes=scopes, transport=line
    )
    with Api(always(FINE)) as api:
        by_httpx(auth, "GET", api.url)
    (request,) = api.received
    assert said_in((request.authorization or "")[7:])["scope"] == "offline_access"


def test_a_name_of_any_script_can_log_in(service: str) -> None:
    ywain = {**GALAHAD, "username": "Ywain à la löwe 🦁", "password": "l'eau & la fontaine=+%"}
    assert httpx.post(f"{service}/register-user", json=ywain).status_code == 201
    with HourpassAuth(service, ywain["username"], ywain["password"]) as auth:
        assert by_requests(auth, "GET", f"{service}/me").json()["username"] == ywain["username"]


@pytest.mark.parametrize("duplicate", [pickle.dumps, copy.copy, copy.deepcopy])
def test_it_is_not_written_down(lancelot: HourpassAuth, duplicate: Callable[..., Any]) -> None:
    with pytest.raises(TypeError, match="one in each worker process"):
        duplicate(lancelot)


def test_neither_requests_nor_fastapi_is_needed() -> None:
    program = (
        "import sys; sys.modules.update(requests=None, fastapi=None, pydantic=None);"
        "from hourpass import HourpassAuth; HourpassAuth('https://login.example', 'a', 'b')"
    )
    subprocess.run([sys.executable, "-c", program], check=True, env=with_hourpass())


def test_a_forked_child_logs_in_anew_and_leaves_its_parent_alone(service: str) -> None:
    """The lock is held while it forks, as another thread might hold it."""
    program = f"""
import os, httpx
from hourpass import HourpassAuth
auth = HourpassAuth({service!r}, "lancelot", {LANCELOT["password"]!r}, scopes="offline_access")
me = lambda: httpx.get({service!r} + "/me", auth=auth).status_code
assert me() == 200
with auth._login._lock:
    child = os.fork()
    if child == 0:
        assert auth._login._held is None
        assert me() == 200
        auth.close()
        os._exit(0)
assert os.waitpid(child, 0)[1] == 0
held = auth._login._held
assert me() == 200 and auth._login._held is held
auth.close()
"""
    subprocess.run([sys.executable, "-c", program], check=True, env=with_hourpass(), timeout=30)


def test_a_service_that_is_not_there_is_named() -> None:
    url = f"http://127.0.0.1:{free_port()}"
    auth = HourpassAuth(url, "lancelot", "secret")
    with pytest.raises(ServiceUnavailableError, match=rf"{url} \(ConnectError\)"):
        by_httpx(auth, "GET", url)


def with_hourpass() -> dict[str, str]:
    return environment(PYTHONPATH=":".join(filter(None, sys.path)))
