"""How long a guard pauses between two requests to the feed when keys are due or when it polls."""

from datetime import timedelta

import pytest

from hourpass.guard import revocation_feed
from hourpass.guard.service_client import FeedPage
from hourpass.testing import Issuer
from tests.support.handmade_tokens import StillClock, guarded

pytest_plugins = ["hourpass.testing"]


@pytest.mark.parametrize(
    ("keys_pause", "keys_due_in", "plain_polls", "lasted", "pause"),
    [
        pytest.param(0.0, 300.0, 1, 0.9, 1, id="a poll, within a second"),
        pytest.param(0.0, 300.0, 1, 1.1, 0, id="a poll that took longer"),
        pytest.param(1.0, 20.5, 0, 20.0, 0, id="a wait for as long as keys allowed"),
        pytest.param(1.0, 20.5, 1, 20.0, 0.5, id="a poll before keys are due"),
    ],
)
def test_a_guard_pauses_after(
    hourpass_issuer: Issuer,
    monkeypatch: pytest.MonkeyPatch,
    keys_pause: float,
    keys_due_in: float,
    plain_polls: int,
    lasted: float,
    pause: float,
) -> None:
    clock = hourpass_issuer.clock = StillClock()
    monkeypatch.setattr(revocation_feed, "time", clock)
    feed = guarded(hourpass_issuer)._feed
    feed._keys_pause = keys_pause
    feed._keys_due_at = clock.monotonic() + keys_due_in
    feed._waits._plain_polls_left = plain_polls
    waits: list[int] = []

    def read(wait: int) -> FeedPage:
        waits.append(wait)
        clock.advance(timedelta(seconds=lasted))
        return FeedPage({}, "0", more=False)

    monkeypatch.setattr(feed, "_read", read)
    assert feed._listen() == pause
    assert (waits == [0]) == bool(plain_polls)
