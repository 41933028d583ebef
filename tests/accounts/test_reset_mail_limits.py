"""Strangers cannot use up the messages that the owner of an address can request."""

from datetime import timedelta
from typing import Any

import pytest
from fastapi import FastAPI
from httpx import AsyncClient

from app.mail.messages import BUILT_IN
from app.security.one_time_codes.service import LIFETIMES, MAX_OPEN, Purpose
from app.security.rate_limits.limits import (
    MAILBOX,
    MAILBOX_FROM_ELSEWHERE,
    MAILBOX_FROM_NETWORK,
)
from tests.support.apps import client_of
from tests.support.mail_server import (
    MailServer,
    code_in,
    deliver,
)
from tests.support.settings import Clock
from tests.support.users import ARTHUR, LANCELOT, bearer, log_in, register

pytestmark = pytest.mark.sends_mail

DAY = timedelta(days=1)
HOME, ON_A_JOURNEY, STRANGER = "192.0.2.7", "198.51.100.9", "203.0.113.1"
PLENTY = 8


@pytest.fixture
async def lancelot(
    app: FastAPI, client: AsyncClient, arthurs_token: str, mailbox: MailServer, clock: Clock
) -> int:
    """Has a verified address, and has logged in at home."""
    user_id = await register(client, LANCELOT)
    verified = {"email_verified": True}
    await client.patch(f"/users/{user_id}", json=verified, headers=bearer(arthurs_token))
    await log_in(client_of(app, HOME), LANCELOT)
    await deliver(app)
    mailbox.messages.clear()
    clock.advance(DAY)
    return user_id


async def ask(app: FastAPI, *addresses: str, times: int = 1) -> None:
    """From each address in turn."""
    for _ in range(times):
        for address in addresses:
            body = {"email": LANCELOT["email"]}
            response = await client_of(app, address).post("/password-resets", json=body)
            assert response.status_code == 202
    await deliver(app)


async def test_one_network_leaves_messages_to_the_others_on_each_day(
    app: FastAPI, mailbox: MailServer, lancelot: int, clock: Clock
) -> None:
    assert lancelot
    for _ in range(7):
        await ask(app, STRANGER, times=PLENTY)
        strangers = len(mailbox.messages)
        assert strangers == MAILBOX_FROM_NETWORK.burst
        await ask(app, ON_A_JOURNEY)
        assert len(mailbox.messages) == strangers + 1
        mailbox.messages.clear()
        clock.advance(DAY)


async def test_many_networks_leave_messages_to_those_where_the_user_has_logged_in(
    app: FastAPI, client: AsyncClient, mailbox: MailServer, lancelot: int
) -> None:
    await ask(app, HOME)
    own = mailbox.messages[0]
    await ask(app, *(f"203.0.113.{number}" for number in range(PLENTY)), times=2)
    assert len(mailbox.messages) == 1 + MAILBOX_FROM_ELSEWHERE.burst
    await ask(app, ON_A_JOURNEY)
    assert len(mailbox.messages) == 1 + MAILBOX_FROM_ELSEWHERE.burst
    await ask(app, HOME, times=MAILBOX.allowed)
    assert len(mailbox.messages) == MAILBOX.allowed + MAILBOX_FROM_ELSEWHERE.burst
    # Theirs do not displace the code that the user was sent first.
    reset = {"code": code_in(own), "new_password": "guinevere in the garden"}
    assert (await client.post("/password-resets/confirm", json=reset)).status_code == 200
    query: dict[str, Any] = {"action": "password_reset.request", "limit": 200}
    headers = bearer(await log_in(client, ARTHUR))
    response = await client.get("/audit", params=query, headers=headers)
    refused = [entry for entry in response.json()["entries"] if not entry["succeeded"]]
    assert len(refused) == 2 * PLENTY - MAILBOX_FROM_ELSEWHERE.burst + 2
    assert {entry["subject_id"] for entry in refused} == {lancelot}
    assert {entry["details"]["reason"] for entry in refused} == {"too many messages"}
    assert refused[0]["address"] == HOME  # the sixth of these
    assert refused[1]["address"] == ON_A_JOURNEY


async def test_accounts_with_an_address_that_they_have_not_verified_get_no_share_of_their_own(
    app: FastAPI, client: AsyncClient, mailbox: MailServer, clock: Clock
) -> None:
    """Otherwise anyone could flood a mailbox from each network in which such an account logs in."""
    networks = [f"203.0.113.{number}" for number in range(PLENTY)]
    mordred = {**LANCELOT, "username": "mordred"}
    await register(client, mordred)
    for network in networks:
        await log_in(client_of(app, network), mordred)
    await deliver(app)
    mailbox.messages.clear()
    clock.advance(DAY)
    await ask(app, *networks, times=2)
    assert len(mailbox.messages) == MAILBOX_FROM_ELSEWHERE.burst


def test_the_texts_and_the_codes_fit_the_limits() -> None:
    assert MAILBOX_FROM_ELSEWHERE.burst == DAY / MAILBOX_FROM_ELSEWHERE.interval == 5
    assert "At most five" in (BUILT_IN / "en/reset.txt").read_text()
    assert "höchstens fünf" in (BUILT_IN / "de/reset.txt").read_text()
    assert LIFETIMES[Purpose.RESET] < MAILBOX_FROM_ELSEWHERE.interval
    assert MAILBOX_FROM_ELSEWHERE.burst + MAILBOX.allowed <= MAX_OPEN
