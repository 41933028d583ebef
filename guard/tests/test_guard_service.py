"""Responses that a guard accepts from the service. It treats any other response as an outage."""

import asyncio
import gzip
import json
import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import httpx
import pytest

from hourpass import Guard, InvalidTokenError, ServiceUnavailableError
from hourpass.guard import revocation_feed
from hourpass.guard.service_client import (
    MAX_ANSWER_BYTES,
    CursorRefusedError,
    HeartbeatMissingError,
    OutageError,
    ServiceClient,
)
from hourpass.guard.waits import PLAIN_POLLS, REFUSED_WAITS
from hourpass.http.transports import TransportClient
from hourpass.http.urls import ServiceUrl
from hourpass.testing import Issuer
from tests.support.guards import comes_true, guard_messages, refusal_of
from tests.support.handmade_tokens import answers, guarded, page

pytest_plugins = ["hourpass.testing"]


@pytest.fixture
def issuer(hourpass_issuer: Issuer) -> Issuer:
    return hourpass_issuer


MEMBERS = {  # all that the three answers need
    "issuer": "https://hourpass.example",
    "keys": [],
    "revocations": [],
    "cursor": "0",
    "more": False,
}


NO_ANSWERS = {
    "500": httpx.Response(500),
    "302": httpx.Response(302, headers={"Location": "https://other.example"}),
    "not JSON": httpx.Response(200, text="<html>"),
    "nested without end": httpx.Response(200, text="[" * 100_000),
    "a list": httpx.Response(200, json=[]),
    "nothing of it": httpx.Response(200, json={}),
    "other types": httpx.Response(
        200, json={"issuer": 1, "keys": {}, "revocations": [{"value": 1}]}
    ),
    "other types further inside": httpx.Response(
        200, json={"keys": ["a"], "revocations": [], "cursor": 1, "more": 1}
    ),
    "too long": httpx.Response(200, text=json.dumps(MEMBERS) + " " * MAX_ANSWER_BYTES),
    "compressed": httpx.Response(
        200,
        content=gzip.compress(json.dumps(MEMBERS).encode()),
        headers={"Content-Encoding": "gzip"},
    ),
}


@pytest.mark.parametrize(
    "path", ["/.well-known/oauth-authorization-server", "/.well-known/jwks.json", "/revocations"]
)
def test_what_is_no_answer_is_an_outage(
    issuer: Issuer, path: str, subtests: pytest.Subtests
) -> None:
    answers(issuer, path, lambda _: NO_ANSWERS[name])
    for name in NO_ANSWERS:
        with subtests.test(name):
            guard = guarded(issuer, timeout=timedelta(seconds=0.05))
            assert refusal_of(guard, issuer.token()) is ServiceUnavailableError
            guard.close()


def test_without_public_keys_the_service_is_asked_once_and_the_feed_revokes_later(
    issuer: Issuer,
) -> None:
    says = {"status": 500}
    answers(issuer, "/.well-known/jwks.json", lambda _: httpx.Response(200, json={"keys": []}))
    answers(issuer, "/verify", lambda _: httpx.Response(says["status"]))
    guard = guarded(issuer)
    token = issuer.token()
    for status, refusal in (
        (500, ServiceUnavailableError),
        (302, ServiceUnavailableError),
        (200, None),
        (500, None),  # not asked again
    ):
        says["status"] = status
        assert refusal_of(guard, token) is refusal, status
    says["status"] = 200
    assert refusal_of(guard, issuer.expired_token()) is InvalidTokenError  # whatever it says
    issuer.revoke(token)
    assert refusal_of(guard, token) is InvalidTokenError


async def test_more_async_callers_than_may_wait_get_503(
    issuer: Issuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hourpass.guard.token_checker.MAX_ASKING", 20)
    can_answer = threading.Event()

    def late(_: httpx.Request) -> None:
        assert can_answer.wait(5)

    answers(issuer, "/revocations", late)
    guard = guarded(issuer)
    token = issuer.token()
    waiting = [asyncio.create_task(guard.acheck(token)) for _ in range(20)]
    await asyncio.sleep(0)
    with pytest.raises(ServiceUnavailableError):
        await guard.acheck(token)
    can_answer.set()
    assert len({user.id for user in await asyncio.gather(*waiting)}) == 1
    assert (await guard.acheck(issuer.token())).id == 1


def vouches_for_each_token(issuer: Issuer) -> None:
    """A service that signs with a shared secret, so that only it can verify tokens."""
    answers(issuer, "/.well-known/jwks.json", lambda _: httpx.Response(200, json={"keys": []}))
    answers(issuer, "/verify", lambda _: httpx.Response(200))


async def test_async_callers_who_were_answered_make_room_for_others(
    issuer: Issuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hourpass.guard.token_checker.MAX_ASKING", 1)
    vouches_for_each_token(issuer)
    guard = guarded(issuer)
    for _ in range(3):
        assert (await guard.acheck(issuer.token())).id == 1


async def test_an_async_caller_with_a_cached_token_does_not_wait(
    issuer: Issuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hourpass.guard.token_checker.MAX_ASKING", 1)
    vouches_for_each_token(issuer)
    guard = guarded(issuer)
    token = issuer.token()
    await guard.acheck(token)
    can_answer = threading.Event()

    def late(_: httpx.Request) -> None:
        assert can_answer.wait(5)

    answers(issuer, "/verify", late)
    waiting = asyncio.create_task(guard.acheck(issuer.token()))
    await asyncio.sleep(0)
    assert (await guard.acheck(token)).id == 1
    can_answer.set()
    await waiting


async def test_an_async_caller_of_a_guard_that_is_being_closed_gets_503(
    issuer: Issuer,
) -> None:
    guard = guarded(issuer)
    guard._checker._threads.shutdown()  # as close() does in another thread
    with pytest.raises(ServiceUnavailableError):
        await guard.acheck(issuer.token())


async def test_closing_does_not_wait_for_async_callers(
    issuer: Issuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hourpass.guard.token_checker.MAX_ASKING", 1)
    can_answer = threading.Event()

    def late(_: httpx.Request) -> None:
        can_answer.wait(5)

    answers(issuer, "/revocations", late)
    guard = guarded(issuer)
    feed, asking = guard._feed, guard._checker._asking
    waiting = asyncio.create_task(guard.acheck(issuer.token()))
    await asyncio.sleep(0)
    assert await asyncio.to_thread(comes_true, lambda: feed._started_at is not None)
    guard.close()
    assert not asking.acquire(blocking=False)  # its place is not free yet
    feed._first_answer.set()  # or it would wait until its timeout
    with pytest.raises(ServiceUnavailableError):
        await waiting
    can_answer.set()


def test_another_issuer_than_the_pinned_one_is_an_outage(issuer: Issuer) -> None:
    guard = guarded(issuer, issuer="https://camelot.example", timeout=timedelta(seconds=0.05))
    issuer.name = "https://elsewhere.example"
    assert refusal_of(guard, issuer.token()) is ServiceUnavailableError


def test_a_service_without_waiting_listeners_is_polled(
    issuer: Issuer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(revocation_feed, "PLAIN_POLL_SECONDS", 0.01)
    waits: list[str] = []

    def no_waiting(request: httpx.Request) -> httpx.Response | None:
        waits.append(request.url.params["wait"])
        return httpx.Response(503) if request.url.params["wait"] != "0" else None

    answers(issuer, "/revocations", no_waiting)
    guard = guarded(issuer)
    token = issuer.token()
    guard.check(token)
    issuer.revoke(token)
    assert refusal_of(guard, token) is InvalidTokenError
    wait, polls = str(revocation_feed.WAIT_SECONDS), ["0"] * PLAIN_POLLS
    expected = ["0", *[wait, "0"] * (REFUSED_WAITS - 1), wait, *polls, wait, *polls, wait]
    assert comes_true(lambda: len(waits) >= len(expected))
    assert waits[: len(expected)] == expected
    assert guard_messages(caplog) == []


def test_a_single_503_makes_a_guard_ask_once_without_a_wait(
    issuer: Issuer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(revocation_feed, "PLAIN_POLL_SECONDS", 0.001)
    wait = str(revocation_feed.WAIT_SECONDS)
    waits: list[str] = []
    statuses = iter([503, 200, 503, 503, 200, 503, 503, 200])

    def busy(request: httpx.Request) -> httpx.Response:
        waits.append(request.url.params["wait"])
        is_refused = waits[-1] == wait and next(statuses, 200) == 503
        return httpx.Response(503) if is_refused else page([], "0")

    answers(issuer, "/revocations", busy)
    guard = guarded(issuer)
    guard.check(issuer.token())
    refused = [wait, "0"]
    expected = ["0", *refused, wait, *refused, *refused, wait, *refused, *refused, wait, wait]
    assert comes_true(lambda: len(waits) >= len(expected))
    assert waits[: len(expected)] == expected
    assert guard_messages(caplog) == []


def test_after_an_outage_a_guard_tries_to_wait_again(
    issuer: Issuer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(revocation_feed, "PLAIN_POLL_SECONDS", 0.05)
    waits: list[str] = []

    def no_waiting(request: httpx.Request) -> httpx.Response | None:
        waits.append(request.url.params["wait"])
        return httpx.Response(503) if request.url.params["wait"] != "0" else None

    answers(issuer, "/revocations", no_waiting)
    guard = guarded(issuer)
    guard.check(issuer.token())
    wait = str(revocation_feed.WAIT_SECONDS)
    assert comes_true(lambda: waits[-2:] == ["0", "0"])  # the first of many polls
    with issuer.outage():
        assert comes_true(lambda: len(guard_messages(caplog)) > 0)
        waits.clear()
    assert comes_true(lambda: len(waits) >= 4)
    assert waits[:4] == ["0", wait, "0", wait]


@pytest.mark.parametrize(
    ("listed", "cursors"),
    [
        pytest.param([], "000", id="nothing"),
        pytest.param([], "012", id="nothing, with other cursors"),
        pytest.param(["jti:the same each time"], "000", id="the same"),
    ],
)
def test_a_service_without_long_polls_is_polled_with_pauses(
    issuer: Issuer, monkeypatch: pytest.MonkeyPatch, listed: list[str], cursors: str
) -> None:
    monkeypatch.setattr(revocation_feed, "PLAIN_POLL_SECONDS", 60.0)
    asked_again = threading.Event()

    def try_fast_path(_: httpx.Request) -> httpx.Response:
        if issuer.asked["/revocations"] == 2:
            asked_again.set()
        issuer.asked["/revocations"] += 1
        return page(listed, cursors[issuer.asked["/revocations"] - 1])

    answers(issuer, "/revocations", try_fast_path)
    guard = guarded(issuer)
    guard.check(issuer.token())
    assert not asked_again.wait(0.2)
    assert issuer.asked["/revocations"] == 2


def test_a_long_feed_is_read_to_its_end_before_any_token_is_accepted(issuer: Issuer) -> None:
    ended = issuer.token(jti="on the last page")
    pages = [f"jti:{number}" for number in range(5)] + ["jti:on the last page"]

    def page(request: httpx.Request) -> httpx.Response:
        after = int(request.url.params.get("after", "0"))
        values = pages[after : after + 1]
        listed = [{"value": value, "expires_at": "2999-01-01T00:00:00Z"} for value in values]
        cursor = str(after + len(values))
        more = after + 1 < len(pages)
        return httpx.Response(200, json={"revocations": listed, "cursor": cursor, "more": more})

    answers(issuer, "/revocations", page)
    guard = guarded(issuer)
    assert refusal_of(guard, ended) is InvalidTokenError
    assert refusal_of(guard, issuer.token()) is None


@pytest.mark.parametrize(
    ("url", "warns"),
    [
        ("http://hourpass:8000", True),
        ("http://127.0.0.1:8000", False),
        ("http://localhost:8000", False),
        ("http://[::1]:8000", False),
        ("https://hourpass.example", False),
    ],
)
def test_plain_http_beyond_this_machine_is_warned_about(
    issuer: Issuer, caplog: pytest.LogCaptureFixture, url: str, warns: bool
) -> None:
    guard = Guard(url)
    issuer.attach(guard)
    assert not guard_messages(caplog)
    guard.start()
    assert any("http" in message for message in guard_messages(caplog)) == warns


@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param({"url": "hourpass.example"}, id="no scheme"),
        pytest.param({"url": "ftp://hourpass.example"}, id="another scheme"),
        pytest.param({"url": "https://"}, id="no host"),
        pytest.param({"url": "https://user:word@hourpass.example"}, id="a password in the URL"),
        pytest.param({"on_outage": "ignore"}, id="another way"),
        pytest.param({"trust_for": timedelta(hours=2)}, id="longer than a token lives"),
        pytest.param({"trust_for": timedelta(minutes=60, seconds=1)}, id="a second too long"),
        pytest.param({"trust_for": timedelta(seconds=9)}, id="shorter than an outage is noticed"),
    ],
)
def test_invalid_arguments_of_a_guard_are_rejected_at_once(arguments: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"^(?!.*word@)"):
        Guard(**{"url": "https://hourpass.example", **arguments})


@pytest.mark.parametrize(
    ("arguments", "seconds"),
    [
        pytest.param({}, 10, id="refuse"),
        pytest.param({"trust_for": timedelta(minutes=60)}, 10, id="refuse, whatever trust_for is"),
        pytest.param({"on_outage": "trust"}, 600, id="trust"),
        pytest.param({"on_outage": "trust", "trust_for": timedelta(minutes=60)}, 3_600, id="most"),
        pytest.param({"on_outage": "trust", "trust_for": timedelta(seconds=10)}, 10, id="least"),
    ],
)
def test_for_how_long_a_guard_uses_its_keys_and_revocations(
    arguments: dict[str, Any], seconds: int
) -> None:
    guard = Guard("https://hourpass.example", **arguments)
    assert guard.fresh_for == timedelta(seconds=seconds)
    assert guard.timeout == 5


def service_that(answer: Callable[[httpx.Request], httpx.Response]) -> ServiceClient:
    url = ServiceUrl.parse("https://hourpass.example")
    return ServiceClient(TransportClient(url, httpx.MockTransport(answer)))


def one_page(**changes: Any) -> dict[str, Any]:
    entry = {"value": "jti:a", "expires_at": "2026-01-02T00:00:00Z"}
    return {"revocations": [entry], "cursor": "1", "more": False, **changes}


def test_what_each_request_to_the_service_says() -> None:
    asked: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request)
        return httpx.Response(200, json={**MEMBERS, **one_page()})

    service = service_that(answer)
    service.issuer()
    service.jwks()
    service.revocations(None, 0)
    service.revocations("the cursor", 30)
    assert service.is_active("the.token.", "https://models.example")
    assert [str(request.url) for request in asked] == [
        "https://hourpass.example/.well-known/oauth-authorization-server",
        "https://hourpass.example/.well-known/jwks.json",
        "https://hourpass.example/revocations?wait=0",
        "https://hourpass.example/revocations?wait=30&after=the+cursor",
        "https://hourpass.example/verify?audience=https%3A%2F%2Fmodels.example",
    ]
    for request in asked:
        assert request.method == "GET"
        assert request.headers["Accept-Encoding"] == "identity"  # else heartbeats would be delayed
        assert request.headers["Cache-Control"] == "no-cache"  # else the keys could be old ones
    # Nobody but the service sees the token, and only where it has to be seen.
    tokens = [request.headers.get("Authorization") for request in asked]
    assert tokens == [None, None, None, None, "Bearer the.token."]


@pytest.mark.parametrize(("wait", "seconds"), [(0, 2), (3, 5), (30, 5)])
def test_a_lost_connection_is_noticed_within_seconds(wait: int, seconds: float) -> None:
    limits: list[dict[str, float]] = []

    def answer(request: httpx.Request) -> httpx.Response:
        limits.append(request.extensions["timeout"])
        return httpx.Response(200, json=one_page())

    service_that(answer).revocations(None, wait)
    assert limits == [{"connect": 2, "read": seconds, "write": 2, "pool": 2}]


@pytest.mark.parametrize(
    ("error", "wait", "kind"),
    [
        pytest.param(httpx.ReadTimeout(""), 30, HeartbeatMissingError, id="no heartbeat"),
        pytest.param(httpx.ReadTimeout(""), 3, OutageError, id="no answer to a short wait"),
        pytest.param(httpx.ConnectTimeout(""), 30, OutageError, id="no connection"),
        pytest.param(RuntimeError("closed"), 30, OutageError, id="closed"),
    ],
)
def test_only_a_long_wait_can_lack_heartbeats(
    error: Exception, wait: int, kind: type[OutageError]
) -> None:
    def answer(_: httpx.Request) -> httpx.Response:
        raise error

    with pytest.raises(OutageError) as raised:
        service_that(answer).revocations(None, wait)
    assert type(raised.value) is kind


class Pieces(httpx.SyncByteStream):
    def __init__(self, *pieces: bytes) -> None:
        self._pieces = pieces

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._pieces)


@pytest.mark.parametrize(
    ("before", "inside", "reported"),
    [
        pytest.param([], b"", [], id="none"),
        pytest.param([b" "], b"", [1], id="one"),
        pytest.param([b" ", b"\t"], b"  ", [1, 2], id="two, and spaces in the page"),
        pytest.param([b" \r\n"], b"", [3], id="three in one piece"),
    ],
)
def test_each_heartbeat_is_reported_once_and_nothing_else_is(
    before: list[bytes], inside: bytes, reported: list[int]
) -> None:
    """Before the last byte of a page nothing is known of its revocations."""
    text = json.dumps(one_page()).encode()
    pieces = Pieces(*before, text[:1] + inside, text[1:])
    service = service_that(lambda _: httpx.Response(200, stream=pieces))
    heard: list[int] = []
    page = service.revocations(None, 30, heard.append)
    assert heard == reported
    assert list(page.revoked) == ["jti:a"]


@pytest.mark.parametrize(
    "page",
    [
        pytest.param(one_page(revocations=[{"expires_at": "2026-01-02T00:00:00Z"}]), id="no value"),
        pytest.param(one_page(revocations=["jti:a"]), id="no entry"),
        pytest.param(one_page(revocations=[{"value": "a", "expires_at": "soon"}]), id="no time"),
        pytest.param(one_page(revocations=[{"value": "a", "expires_at": 1}]), id="a number"),
        pytest.param(one_page(cursor=1), id="cursor a number"),
        pytest.param(one_page(more=1), id="more a number"),
        pytest.param(one_page(more=None), id="no more"),
        pytest.param(one_page(revocations=[], more=True), id="more, after a page of nothing"),
    ],
)
def test_a_malformed_page_is_an_outage(page: dict[str, Any]) -> None:
    headers = {"Date": "Thu, 01 Jan 2026 00:00:00 GMT"}
    service = service_that(lambda _: httpx.Response(200, json=page, headers=headers))
    with pytest.raises(OutageError) as raised:
        service.revocations(None, 0)
    assert raised.value.cause == "malformed feed"


@pytest.mark.parametrize(("after", "kind"), [("1.a", CursorRefusedError), (None, OutageError)])
def test_a_cursor_can_be_refused_only_if_one_was_sent(
    after: str | None, kind: type[OutageError]
) -> None:
    with pytest.raises(OutageError) as raised:
        service_that(lambda _: httpx.Response(410)).revocations(after, 0)
    assert type(raised.value) is kind


def test_the_bounds_of_an_answer_are_exact() -> None:
    for length, is_accepted in ((200, True), (201, False)):
        entry = {"value": "x" * length, "expires_at": "2026-01-02T00:00:00Z"}
        page = one_page(revocations=[entry])
        assert is_a_page(httpx.Response(200, json=page)) == is_accepted
    for length, is_accepted in ((1_048_576, True), (1_048_577, False)):
        text = json.dumps(one_page()).ljust(length)
        assert is_a_page(httpx.Response(200, text=text)) == is_accepted


def is_a_page(response: httpx.Response) -> bool:
    try:
        service_that(lambda _: response).revocations(None, 0)
    except OutageError:
        return False
    return True


def test_an_answer_may_say_that_it_is_not_compressed() -> None:
    headers = {"Content-Encoding": "identity"}
    assert is_a_page(httpx.Response(200, json=one_page(), headers=headers))


@pytest.mark.parametrize("zone", ["GMT", "-0000", "+0000"])
def test_the_zone_of_an_answer_is_utc_however_it_is_written(zone: str) -> None:
    headers = {"Date": f"Thu, 01 Jan 2026 00:00:00 {zone}"}
    service = service_that(lambda _: httpx.Response(200, json=one_page(), headers=headers))
    assert service.revocations(None, 0).revoked == {"jti:a": 86_400}


def test_a_zone_that_is_not_utc_is_read_as_well() -> None:
    headers = {"Date": "Thu, 01 Jan 2026 02:00:00 +0200"}
    service = service_that(lambda _: httpx.Response(200, json=one_page(), headers=headers))
    assert service.revocations(None, 0).revoked == {"jti:a": 86_400}


@pytest.mark.parametrize(
    "response",
    [
        pytest.param(httpx.Response(500), id="500"),
        pytest.param(httpx.Response(200, text="<html>"), id="not JSON"),
        pytest.param(httpx.Response(200, text="[" * 100_000), id="nested without end"),
        pytest.param(httpx.Response(200, json=[]), id="a list"),
        pytest.param(httpx.Response(200, json={"keys": 1}), id="keys a number"),
        pytest.param(httpx.Response(200, json={"keys": {"a": 1}}), id="keys an object"),
        pytest.param(httpx.Response(200, json={"keys": ["a"]}), id="key a string"),
    ],
)
def test_a_malformed_key_set_is_an_outage_for_the_caller_who_needs_a_new_key(
    issuer: Issuer, response: httpx.Response
) -> None:
    """It is read in the caller's thread, where any other error would be the API's 500."""
    guard = guarded(issuer)
    token = issuer.token()
    guard.check(token)
    issuer.rotate_key()
    answers(issuer, "/.well-known/jwks.json", lambda _: response)
    assert refusal_of(guard, issuer.token()) is ServiceUnavailableError
    assert refusal_of(guard, token) is None


def test_a_closed_service_is_an_outage() -> None:
    service = service_that(lambda _: httpx.Response(200, json=MEMBERS))
    service.close()
    with pytest.raises(OutageError) as raised:
        service.issuer()
    assert raised.value.cause == "closed meanwhile"
