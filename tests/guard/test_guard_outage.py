"""What a guard does while the service is unreachable, for how long, and how it recovers."""

import logging
import shutil
from datetime import timedelta
from pathlib import Path

import pytest

from hourpass import Guard, InvalidTokenError, ServiceUnavailableError
from hourpass.guard.revocation_feed import OUTAGE_NOTICED_SECONDS
from hourpass.testing import Issuer, MovableClock
from tests.support.guard_outages import all_come_to, frequent_attempts, serving_at
from tests.support.guards import comes_true, guard_messages, refusal_of
from tests.support.handmade_tokens import guarded
from tests.support.processes import free_port

__all__ = ["frequent_attempts"]

pytest_plugins = ["hourpass.testing"]

NOTICED = timedelta(seconds=OUTAGE_NOTICED_SECONDS)
MINUTE = timedelta(minutes=1)


@pytest.mark.usefixtures("frequent_attempts")
def test_a_guard_follows_a_service_that_starts_late_stops_returns_and_is_replaced(
    tmp_path: Path, sqlite_template: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("first.db", "second.db"):
        shutil.copy(sqlite_template, tmp_path / name)
    port, clock = free_port(), MovableClock()
    url = f"http://127.0.0.1:{port}"
    refusing = Guard(url, timeout=timedelta(seconds=0.2), clock=clock)
    trusting = Guard(
        url, on_outage="trust", trust_for=10 * MINUTE, timeout=timedelta(seconds=0.2), clock=clock
    )
    guards = (refusing, trusting)
    caplog.set_level(logging.INFO, "hourpass.guard")
    # Cold: it says so clearly, once, and goes on trying.
    assert refusal_of(refusing, "x.y.z") is ServiceUnavailableError
    assert refusal_of(refusing, "x.y.z") is ServiceUnavailableError
    assert guard_messages(caplog) == [
        "The Hourpass service cannot be reached: Connection refused",
        "Every request is refused until the Hourpass service can be reached",
    ]
    with serving_at(port, tmp_path / "first.db") as service:
        user = service.new_user()
        token, unseen = service.log_in(user), service.log_in(user)
        assert all_come_to(guards, token, None)
        again = ["The Hourpass service can be reached again"]
        assert comes_true(lambda: guard_messages(caplog)[2:] == again)  # logged after the answer
        caplog.clear()
    # Away: nothing shows at first.
    assert [refusal_of(guard, token) for guard in guards] == [None, None]
    clock.advance(NOTICED)
    assert refusal_of(refusing, token) is ServiceUnavailableError
    assert refusal_of(refusing, unseen) is ServiceUnavailableError
    assert refusal_of(trusting, token) is None
    assert refusal_of(trusting, unseen) is None
    assert comes_true(lambda: len(guard_messages(caplog)) == 3)
    assert [message.partition(":")[0] for message in sorted(guard_messages(caplog))] == [
        "Every request is refused until the Hourpass service can be reached",
        "The Hourpass service cannot be reached",
        "The Hourpass service cannot be reached",
    ]
    # Back, and what it says now counts.
    with serving_at(port, tmp_path / "first.db") as service:
        assert all_come_to(guards, token, None)
        service.revoke(token)
        assert all_come_to(guards, token, InvalidTokenError)
    clock.advance(10 * MINUTE)
    assert [refusal_of(guard, unseen) for guard in guards] == 2 * [ServiceUnavailableError]
    # Another one in its place: neither its keys nor its revocations are those of the first.
    with serving_at(port, tmp_path / "second.db") as service:
        other = service.new_token()
        assert all_come_to(guards, other, None)
        assert all_come_to(guards, unseen, InvalidTokenError)
    assert not any(token in record.getMessage() for record in caplog.records)
    for guard in guards:
        guard.close()


@pytest.fixture
def issuer(hourpass_issuer: Issuer) -> Issuer:
    return hourpass_issuer


def test_the_context_manager_of_a_guard_raises_at_once_if_the_service_is_unreachable(
    issuer: Issuer,
) -> None:
    guard = guarded(issuer, timeout=timedelta(seconds=0.2))
    feed = guard._feed
    with issuer.outage(), pytest.raises(ServiceUnavailableError), guard:
        pass
    assert feed._closing.is_set()
    with guard:
        feed = guard._feed
        assert not feed._closing.is_set()
    assert feed._closing.is_set()


async def test_the_async_context_of_a_guard_closes_it(issuer: Issuer) -> None:
    async with guarded(issuer) as guard:
        feed = guard._feed
        assert feed.state
        assert not feed._closing.is_set()
    assert feed._closing.is_set()


async def test_async_callers_wait_no_longer_than_the_timeout(issuer: Issuer) -> None:
    guard = guarded(issuer, timeout=timedelta(seconds=0.05))
    with issuer.outage():
        for _ in range(2):
            with pytest.raises(ServiceUnavailableError):
                await guard.acheck(issuer.token())


def test_a_token_of_an_unknown_key_is_neither_accepted_nor_called_invalid(issuer: Issuer) -> None:
    guard = guarded(issuer, on_outage="trust")
    token = issuer.token()
    guard.check(token)
    issuer.rotate_key()
    under_the_new_key = issuer.token()
    with issuer.outage():
        assert refusal_of(guard, token) is None
        for _ in range(2):
            assert refusal_of(guard, under_the_new_key) is ServiceUnavailableError
