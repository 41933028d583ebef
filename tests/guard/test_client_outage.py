"""What HourpassAuth does while the login service is unreachable or busy, or rejects a login."""

from datetime import timedelta

import httpx
import pytest

from hourpass import HourpassAuth, LoginError, ServiceUnavailableError
from hourpass.client.token_endpoint import LOGIN_PAUSE, LONGEST_PAUSE, OUTAGE_PAUSE, TIMEOUT
from hourpass.client.token_source import CLOCK_MARGIN, REFUSAL_PAUSE, RENEWAL_MARGIN
from tests.support.http_clients import ClientService, by_httpx, settle, token_of
from tests.support.settings import Clock

pytest_plugins = ["tests.support.client_fixtures"]

HOUR = timedelta(hours=1)
SECOND = timedelta(seconds=1)


def test_an_outage_has_no_effect_while_the_token_is_valid(service: ClientService) -> None:
    auth = service.auth()
    by_httpx(auth, "GET", f"{service.url}/me")
    service.transport.is_offline = True
    service.clock.advance(HOUR - RENEWAL_MARGIN * SECOND)
    for _ in range(3):
        assert by_httpx(auth, "GET", f"{service.url}/me").status_code == 200
        settle(auth)
    assert len(service.transport.sent) == 2  # and the service is not asked again at each request

    service.clock.advance((RENEWAL_MARGIN - CLOCK_MARGIN) * SECOND)
    for _ in range(3):
        with pytest.raises(ServiceUnavailableError, match="ConnectError"):
            by_httpx(auth, "GET", f"{service.url}/me")
    assert len(service.transport.sent) == 3

    service.transport.is_offline = False
    service.clock.advance(OUTAGE_PAUSE * SECOND)
    assert by_httpx(auth, "GET", f"{service.url}/me").status_code == 200


def test_an_outage_is_logged_once(service: ClientService, caplog: pytest.LogCaptureFixture) -> None:
    auth = service.auth()
    by_httpx(auth, "GET", f"{service.url}/me")
    service.transport.is_offline = True
    service.clock.advance(HOUR - RENEWAL_MARGIN * SECOND)
    for _ in range(3):
        by_httpx(auth, "GET", f"{service.url}/me")
        settle(auth)
        service.clock.advance(OUTAGE_PAUSE * SECOND)
    assert len(service.transport.sent) == 4
    lines = [line for line in caplog.messages if "ConnectError" in line]
    assert lines == [f"No login at {service.url} (ConnectError)"]


def test_a_disabled_user_gets_a_login_error_and_can_come_back(service: ClientService) -> None:
    auth = service.auth()
    by_httpx(auth, "GET", f"{service.url}/me")
    service.as_admin("PUT", f"/toggle-user-permission/{service.user_id}/0")
    for _ in range(3):
        with pytest.raises(LoginError):
            by_httpx(auth, "GET", f"{service.url}/me")
    assert service.transport.grants() == ["password", "password"]
    service.as_admin("PUT", f"/toggle-user-permission/{service.user_id}/1")
    service.clock.advance(LOGIN_PAUSE * SECOND)
    assert by_httpx(auth, "GET", f"{service.url}/me").status_code == 200


def test_each_refusal_of_an_older_token_is_answered_with_a_login(
    service: ClientService,
) -> None:
    auth = service.auth()
    by_httpx(auth, "GET", f"{service.url}/me")
    for _ in range(3):
        service.client.post("/revoke", data={"token": token_of(auth)})
        assert by_httpx(auth, "GET", f"{service.url}/me").status_code == 200
        service.clock.advance(REFUSAL_PAUSE * SECOND)
    assert service.transport.grants() == ["password"] * 4


def saying(*answers: httpx.Response) -> tuple[httpx.MockTransport, list[httpx.Request]]:
    """A login service that gives these answers, the last one for ever."""
    asked: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request)
        return answers[min(len(asked), len(answers)) - 1]

    return httpx.MockTransport(answer), asked


def log_in_at(service: httpx.BaseTransport) -> None:
    use(HourpassAuth("https://login.example", "lancelot", "secret", transport=service))


def use(auth: HourpassAuth) -> None:
    """As httpx does, up to the point where the request would leave."""
    next(auth.sync_auth_flow(httpx.Request("GET", "https://api.example")))


@pytest.mark.parametrize("status", [429, 503])
def test_a_busy_service_is_asked_again_after_its_retry_after(status: int) -> None:
    busy = httpx.Response(status, headers={"Retry-After": "0"})
    given = httpx.Response(200, json={"access_token": "a.b.c", "expires_in": 3600})
    service, asked = saying(busy, busy, given)
    log_in_at(service)
    assert len(asked) == 3


def test_a_service_that_stays_busy_is_asked_a_few_times() -> None:
    service, asked = saying(httpx.Response(503, headers={"Retry-After": "0"}))
    with pytest.raises(ServiceUnavailableError, match="busy"):
        log_in_at(service)
    assert len(asked) == 3


@pytest.mark.parametrize(("said", "kept"), [("100", 100), ("9" * 30, LONGEST_PAUSE)])
def test_the_caller_learns_how_long_to_wait_and_the_wait_is_limited(said: str, kept: int) -> None:
    service, asked = saying(httpx.Response(429, headers={"Retry-After": said}))
    clock = Clock()
    auth = HourpassAuth(
        "https://login.example",
        "lancelot",
        "secret",
        clock=lambda: clock().timestamp(),
        transport=service,
    )
    for pause in (timedelta(), (kept - 1) * SECOND, SECOND):
        clock.advance(pause)
        with pytest.raises(ServiceUnavailableError, match=f"asks to wait {kept} seconds"):
            use(auth)
    assert len(asked) == 2


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(httpx.Response(200, text="<html>"), id="a page"),
        pytest.param(httpx.Response(200, json=[]), id="another JSON"),
        pytest.param(httpx.Response(200, json={"access_token": "a.b.c"}), id="no lifetime"),
        pytest.param(httpx.Response(404), id="another service"),
        pytest.param(httpx.Response(500), id="a bug"),
        pytest.param(httpx.Response(503, headers={"Retry-After": "soon"}), id="an odd wait"),
    ],
)
def test_what_is_no_answer_to_a_login_is_an_outage(answer: httpx.Response) -> None:
    service, _ = saying(answer)
    with pytest.raises(ServiceUnavailableError, match=r"https://login\.example") as raised:
        log_in_at(service)
    assert "secret" not in str(raised.value)


def test_the_times_of_a_client_in_seconds() -> None:
    """The other tests take them from the code."""
    times = (RENEWAL_MARGIN, CLOCK_MARGIN, TIMEOUT, LOGIN_PAUSE, OUTAGE_PAUSE, LONGEST_PAUSE)
    assert times == (300, 5, 15, 60, 1, 300)
    assert REFUSAL_PAUSE == 30


@pytest.mark.parametrize(
    ("lifetime", "renew_after", "expires_after"), [(3_600, 3_300, 3_595), (100, 90, 95)]
)
def test_a_token_is_renewed_in_time_and_not_used_in_its_last_seconds(
    lifetime: int, renew_after: int, expires_after: int
) -> None:
    given = httpx.Response(200, json={"access_token": "a.b.c", "expires_in": lifetime})
    service, asked = saying(given)
    auth = HourpassAuth(
        "https://login.example", "lancelot", "secret", clock=lambda: 1_000.0, transport=service
    )
    use(auth)
    held = auth._tokens._held
    assert held
    assert (held.renew_at, held.expires_at) == (1_000 + renew_after, 1_000 + expires_after)
    assert len(asked) == 1


@pytest.mark.parametrize(
    ("said", "slept"),
    [
        pytest.param("0", [0, 0], id="at once"),
        pytest.param("5", [5, 5], id="soon"),
        pytest.param("6", [], id="later"),
    ],
)
def test_a_client_waits_as_long_as_a_busy_service_says_but_five_seconds_at_most(
    monkeypatch: pytest.MonkeyPatch, said: str, slept: list[float]
) -> None:
    sleeps: list[float] = []
    monkeypatch.setattr("hourpass.client.token_endpoint.time.sleep", sleeps.append)
    service, asked = saying(httpx.Response(503, headers={"Retry-After": said}))
    with pytest.raises(ServiceUnavailableError, match=f"asks to wait {said} seconds"):
        log_in_at(service)
    assert sleeps == slept
    assert len(asked) == len(slept) + 1


def test_a_service_that_stays_busy_is_left_alone_for_a_second() -> None:
    service, asked = saying(httpx.Response(503, headers={"Retry-After": "0"}))
    clock = Clock()
    auth = HourpassAuth(
        "https://login.example",
        "lancelot",
        "secret",
        clock=lambda: clock().timestamp(),
        transport=service,
    )
    for pause in (timedelta(), 0.9 * SECOND, 0.1 * SECOND):
        clock.advance(pause)
        with pytest.raises(ServiceUnavailableError):
            use(auth)
    assert len(asked) == 3 + 3


def test_only_a_busy_service_is_asked_again() -> None:
    service, asked = saying(httpx.Response(500, headers={"Retry-After": "0"}))
    with pytest.raises(ServiceUnavailableError):
        log_in_at(service)
    assert len(asked) == 1


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(httpx.Response(400, json={"error": "invalid_grant"}), id="as RFC 6749 says"),
        pytest.param(httpx.Response(401, text="<html>"), id="no JSON"),
        pytest.param(httpx.Response(401, json=["no"]), id="no object"),
    ],
)
def test_a_refusal_counts_whatever_its_body_is(answer: httpx.Response) -> None:
    service, asked = saying(answer)
    with pytest.raises(LoginError, match="wrong, or the account is disabled"):
        log_in_at(service)
    assert len(asked) == 1


@pytest.mark.parametrize(("size", "is_kept"), [(1_048_576, True), (1_048_577, False)])
def test_a_streamed_body_of_up_to_a_mebibyte_is_kept_for_a_repetition(
    size: int, is_kept: bool
) -> None:
    given = httpx.Response(200, json={"access_token": "a.b.c", "expires_in": 3600})
    service, _ = saying(given)
    auth = HourpassAuth("https://login.example", "lancelot", "secret", transport=service)
    headers = {"Content-Length": str(size)}
    body = iter([bytes(size)])
    request = httpx.Request("POST", "https://api.example", content=body, headers=headers)
    next(auth.sync_auth_flow(request))
    assert isinstance(request.stream, httpx.ByteStream) == is_kept
