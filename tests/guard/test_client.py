"""HourpassAuth sends its token only to the API that it is used with."""

import io
import subprocess
import sys
from typing import Any

import pytest
import requests

from hourpass import HourpassAuth, ServiceUnavailableError
from tests.support.http_clients import (
    CALLS,
    Call,
    ClientService,
    by_async_httpx,
    by_httpx,
    by_requests,
)
from tests.support.processes import environment, free_port
from tests.support.servers import (
    FINE,
    INVALID_TOKEN,
    Answer,
    Api,
    Received,
    always,
    refuses_the_first,
)
from tests.support.users import GALAHAD, claims_of

pytest_plugins = ["tests.support.client_fixtures"]

every_library = pytest.mark.parametrize("call", CALLS)


def test_one_login_serves_every_library(service: ClientService, auth: HourpassAuth) -> None:
    for call in CALLS * 2:
        answer = call(auth, "GET", f"{service.url}/me")
        assert answer.status_code == 200
        assert answer.json()["username"] == service.user["username"]
    assert requests.get(f"{service.url}/me", auth=auth).status_code == 200  # without a session
    assert service.transport.grants() == ["password"]


@every_library
def test_a_refused_token_is_replaced_and_the_request_repeated(
    service: ClientService, auth: HourpassAuth, call: Call
) -> None:
    with Api(refuses_the_first(1)) as api:
        answer = call(auth, "POST", f"{api.url}/predict", json={"petals": 5})
    assert answer.status_code == 200
    first, second = api.received
    assert first.body == second.body != b""
    assert first.authorization != second.authorization
    assert [earlier.status_code for earlier in answer.history] == [401]
    assert service.transport.grants() == ["password", "password"]


@every_library
def test_the_caller_sees_the_refusal_of_a_new_token(
    service: ClientService, auth: HourpassAuth, call: Call
) -> None:
    with Api(always(INVALID_TOKEN)) as api:
        assert call(auth, "GET", api.url).status_code == 401
        assert len(api.received) == 2
        # Nor does the service have to pay for an API that refuses everything.
        for _ in range(2):
            assert call(auth, "GET", api.url).status_code == 401
    assert len(api.received) == 2 + 2
    assert service.transport.grants() == ["password", "password"]


def test_other_refusals_go_to_the_caller(
    service: ClientService, auth: HourpassAuth, subtests: pytest.Subtests
) -> None:
    answers = {
        "no challenge": Answer(401),
        "no token seen": Answer(401, {"WWW-Authenticate": "Bearer"}),
        "no scope": Answer(403, {"WWW-Authenticate": 'Bearer error="insufficient_scope"'}),
    }
    for name, answer in answers.items():
        for call in CALLS:
            with subtests.test(f"{name}, {call.__name__}"), Api(always(answer)) as api:
                assert call(auth, "GET", api.url).status_code == answer.status
                assert len(api.received) == len(service.transport.grants()) == 1


@every_library
def test_an_uploaded_file_is_repeated(auth: HourpassAuth, call: Call) -> None:
    with Api(refuses_the_first(1)) as api:
        files = {"image": ("grail.png", io.BytesIO(b"a cup"), "image/png")}
        assert call(auth, "POST", api.url, files=files).status_code == 200
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
def test_a_streamed_body_is_sent_once(auth: HourpassAuth, call: Call, body: dict[str, Any]) -> None:
    with Api(refuses_the_first(1)) as api:
        assert call(auth, "POST", api.url, **body).status_code == 401
    assert [request.body for request in api.received] == [b"told"]


def test_a_body_streamed_by_a_task_is_sent_once(auth: HourpassAuth) -> None:
    async def tale() -> Any:
        yield b"told"

    with Api(refuses_the_first(1)) as api:
        assert by_async_httpx(auth, "POST", api.url, content=tale()).status_code == 401
    assert [request.body for request in api.received] == [b"told"]


@every_library
def test_after_a_redirect_only_the_refused_request_is_repeated(
    auth: HourpassAuth, call: Call
) -> None:
    refusing = refuses_the_first(1)

    def answer(request: Received) -> Answer:
        if request.method == "POST":
            return Answer(303, {"Location": "/jobs/1"})
        return refusing(request)

    with Api(answer) as api:
        assert call(auth, "POST", f"{api.url}/jobs").status_code == 200
    assert [request.method for request in api.received] == ["POST", "GET", "GET"]


@pytest.mark.parametrize("scopes", ["offline_access", ["offline_access"]], ids=["text", "list"])
def test_scopes_are_asked_for(service: ClientService, scopes: Any) -> None:
    auth = service.auth(scopes=scopes)
    with Api(always(FINE)) as api:
        by_httpx(auth, "GET", api.url)
    (request,) = api.received
    assert claims_of((request.authorization or "")[7:])["scope"] == "offline_access"


def test_a_name_of_any_script_can_log_in(service: ClientService) -> None:
    ywain = {**GALAHAD, "username": "Ywain à la löwe 🦁", "password": "l'eau & la fontaine=+%"}
    assert service.client.post("/register-user", json=ywain).status_code == 201
    with HourpassAuth(service.url, ywain["username"], ywain["password"]) as auth:
        assert by_requests(auth, "GET", f"{service.url}/me").json()["username"] == ywain["username"]


def test_a_forked_child_logs_in_anew_and_leaves_its_parent_alone(service: ClientService) -> None:
    """The lock is held while it forks, as another thread might hold it."""
    name, password = service.user["username"], service.user["password"]
    program = f"""
import os, sys
sys.modules["fastapi"] = None  # its import would take most of the time
from urllib.request import Request, urlopen
from hourpass import HourpassAuth
auth = HourpassAuth({service.url!r}, {name!r}, {password!r}, scopes="offline_access")

def me():
    headers = {{"Authorization": "Bearer " + auth.token()}}
    return urlopen(Request({service.url!r} + "/me", headers=headers)).status

assert me() == 200
with auth._tokens._lock:
    child = os.fork()
    if child == 0:
        assert auth._tokens._held is None
        assert me() == 200
        auth.close()
        os._exit(0)
assert os.waitpid(child, 0)[1] == 0
held = auth._tokens._held
assert me() == 200 and auth._tokens._held is held
auth.close()
"""
    subprocess.run([sys.executable, "-c", program], check=True, env=with_hourpass(), timeout=30)


def test_an_unreachable_service_is_named() -> None:
    url = f"http://127.0.0.1:{free_port()}"
    auth = HourpassAuth(url, "lancelot", "secret")
    with pytest.raises(ServiceUnavailableError, match=rf"{url} \(Connection refused\)"):
        by_httpx(auth, "GET", url)


def with_hourpass() -> dict[str, str]:
    return environment(PYTHONPATH=":".join(filter(None, sys.path)))
