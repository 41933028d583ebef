"""The log says at DEBUG why a token is refused. A service with HS256 is not asked twice."""

import logging
from datetime import timedelta
from typing import Any

import httpx
import pytest

from hourpass import GuardError, InvalidTokenError
from hourpass.guard import invalid_tokens
from hourpass.guard.bearer import bearer_token
from hourpass.testing import Issuer
from tests.support.guards import guard_messages, refusal_of
from tests.support.handmade_tokens import KEYS_PATH, StillClock, answers, guarded

SECOND = timedelta(seconds=1)


@pytest.fixture
def issuer(hourpass_issuer: Issuer) -> Issuer:
    return hourpass_issuer


@pytest.mark.parametrize(
    ("kind", "claims", "reason"),
    [
        ("expired_token", {}, "expired"),
        ("revoked_token", {}, "revoked"),
        ("forged_token", {}, "its signature is wrong"),
        ("token", {"iss": "https://elsewhere.example"}, "another issuer"),
        ("token", {"aud": "another-api"}, "another audience"),
        ("token", {"sub": 1}, "a claim is missing or of another type"),
        ("token", {"iat": 9_999_999_999}, "issued in the future; compare both machines' clocks"),
        ("token", {"exp": 9_999_999_999}, "its lifetime is too long"),
    ],
)
def test_the_reason_is_logged_at_debug_and_the_token_never(
    issuer: Issuer, caplog: pytest.LogCaptureFixture, kind: str, claims: dict[str, Any], reason: str
) -> None:
    guard = guarded(issuer)
    guard.start()
    token = getattr(issuer, kind)(**claims)
    assert refusal_of(guard, token) is InvalidTokenError
    assert guard_messages(caplog) == []
    caplog.set_level(logging.DEBUG, "hourpass.guard")
    assert refusal_of(guard, token) is InvalidTokenError
    assert guard_messages(caplog) == [f"Token refused: {reason}"]
    assert not any(part in caplog.text for part in token.split("."))


@pytest.mark.parametrize(
    ("headers", "reason"),
    [
        ([], "No token: no Authorization header"),
        ([b"Basic bGFuY2Vsb3Q6"], "No token: the scheme is not Bearer"),
        ([b"Bearer a", b"Bearer b"], "Token refused: several Authorization headers"),
    ],
)
def test_so_is_what_is_wrong_with_a_header(
    caplog: pytest.LogCaptureFixture, headers: list[bytes], reason: str
) -> None:
    caplog.set_level(logging.DEBUG, "hourpass.guard")
    with pytest.raises(GuardError):
        bearer_token([(b"authorization", value) for value in headers])
    assert guard_messages(caplog) == [reason]


def test_a_token_that_the_service_refused_is_not_asked_about_again_for_some_seconds(
    issuer: Issuer,
) -> None:
    clock = issuer.clock = StillClock()
    statuses, asked = [401], list[str]()

    def verify(request: httpx.Request) -> httpx.Response:
        asked.append(request.headers["Authorization"])
        return httpx.Response(statuses[-1])

    answers(issuer, KEYS_PATH, lambda _: httpx.Response(200, json={"keys": []}))
    answers(issuer, "/verify", verify)
    guard = guarded(issuer)
    token, other = issuer.token(), issuer.token()
    for _ in range(3):
        assert refusal_of(guard, token) is InvalidTokenError
    assert len(asked) == 1
    statuses.append(200)
    assert refusal_of(guard, other) is None
    clock.advance(4.9 * SECOND)
    assert refusal_of(guard, token) is InvalidTokenError
    clock.advance(0.1 * SECOND)
    assert refusal_of(guard, token) is None
    assert len(asked) == 3


def test_refusals_are_remembered_in_a_table_of_limited_size(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(invalid_tokens, "MAX_REMEMBERED", 3)
    recent = invalid_tokens.RecentlyInvalid()
    for number in range(5):
        recent.add(f"token {number}", now=0)
    kept = [recent.contains(f"token {number}", now=0) for number in range(5)]
    assert kept == [False, False, True, True, True]
    recent.add("token 4", now=0)  # again: nothing is evicted for it
    assert recent.contains("token 2", now=0)
