"""Password resets are limited. Strangers cannot use up the messages of the owner of an address, or
displace the owner's codes."""

import asyncio
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from fastapi import FastAPI
from httpx import AsyncClient
from sqlalchemy import func, select

from app.database.engine import begin_write
from app.events import Events, Subscriber
from app.mail import service as mail
from app.mail import worker
from app.mail.delivery import FIRST_DELAY
from app.mail.messages import BUILT_IN
from app.mail.worker import MAX_ACCOUNTS, MailWorker
from app.security.one_time_codes import service as codes
from app.security.one_time_codes.errors import InvalidCodeError
from app.security.one_time_codes.models import Code
from app.security.one_time_codes.service import LIFETIMES, MAX_OPEN, Purpose
from app.security.one_time_codes.text import parse_code
from app.security.rate_limits.limits import (
    MAILBOX,
    MAILBOX_FROM_ELSEWHERE,
    MAILBOX_FROM_NETWORK,
    RESET,
    Rate,
)
from tests.support.apps import client_of, context_in
from tests.support.mail_server import MailServer, code_in, deliver
from tests.support.markers import on_sqlite
from tests.support.one_time_codes import issue
from tests.support.password_resets import ask, confirm, lancelot
from tests.support.settings import Clock
from tests.support.users import (
    ARTHUR,
    GALAHAD,
    LANCELOT,
    assert_problem,
    bearer,
    log_in,
    register,
)

__all__ = ["lancelot"]

pytestmark = pytest.mark.sends_mail

DAY = timedelta(days=1)
HOME, ON_A_JOURNEY, STRANGER = "192.0.2.7", "198.51.100.9", "203.0.113.1"

# In the tests. Each message takes time.
FROM_USER = 2
FROM_ELSEWHERE = 2
FROM_NETWORK = 1
PLENTY = FROM_ELSEWHERE + 1


@pytest.fixture(autouse=True)
def small_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "MAILBOX", replace(MAILBOX, allowed=FROM_USER))
    elsewhere = Rate(FROM_ELSEWHERE, DAY / FROM_ELSEWHERE)
    monkeypatch.setattr(worker, "MAILBOX_FROM_ELSEWHERE", elsewhere)
    monkeypatch.setattr(worker, "MAILBOX_FROM_NETWORK", Rate(FROM_NETWORK, DAY / FROM_NETWORK))


@pytest.fixture
async def verified_lancelot(
    app: FastAPI, client: AsyncClient, arthurs_token: str, mailbox: MailServer, clock: Clock
) -> int:
    """Has a verified address, and has logged in at home."""
    user_id = await register(client, LANCELOT)
    verified = {"email_verified": True}
    await client.patch(f"/users/{user_id}", json=verified, headers=bearer(arthurs_token))
    await log_in(client_of(app, HOME), LANCELOT)
    await deliver(app)
    assert mailbox.messages == []
    clock.advance(DAY)
    return user_id


async def ask_from(app: FastAPI, *addresses: str, times: int = 1) -> None:
    """Request a reset of Lancelot's password from each address in turn."""
    for _ in range(times):
        for address in addresses:
            assert (await ask(client_of(app, address))).status_code == 202
    await deliver(app)


@on_sqlite
async def test_one_network_leaves_messages_to_the_others_on_each_day(
    app: FastAPI, mailbox: MailServer, verified_lancelot: int, clock: Clock
) -> None:
    assert verified_lancelot
    for _ in range(2):
        await ask_from(app, STRANGER, times=PLENTY)
        strangers = len(mailbox.messages)
        assert strangers == FROM_NETWORK
        await ask_from(app, ON_A_JOURNEY)
        assert len(mailbox.messages) == strangers + 1
        mailbox.messages.clear()
        clock.advance(DAY)


@on_sqlite
async def test_many_networks_leave_messages_to_those_where_the_user_has_logged_in(
    app: FastAPI, client: AsyncClient, mailbox: MailServer, verified_lancelot: int
) -> None:
    await ask_from(app, HOME)
    own = mailbox.messages[0]
    await ask_from(app, *(f"203.0.113.{number}" for number in range(PLENTY)), times=2)
    assert len(mailbox.messages) == 1 + FROM_ELSEWHERE
    await ask_from(app, ON_A_JOURNEY)
    assert len(mailbox.messages) == 1 + FROM_ELSEWHERE
    await ask_from(app, HOME, times=FROM_USER)
    assert len(mailbox.messages) == FROM_USER + FROM_ELSEWHERE
    # Their codes do not displace the code that the user was sent first.
    assert (await confirm(client, code_in(own))).status_code == 200
    query: dict[str, Any] = {"action": "password_reset.request", "limit": 200}
    headers = bearer(await log_in(client, ARTHUR))
    response = await client.get("/audit", params=query, headers=headers)
    refused = [entry for entry in response.json()["entries"] if not entry["succeeded"]]
    assert len(refused) == 2 * PLENTY - FROM_ELSEWHERE + 2
    assert {entry["subject_id"] for entry in refused} == {verified_lancelot}
    assert {entry["details"]["reason"] for entry in refused} == {"too many messages"}
    assert refused[0]["address"] == HOME  # the third of these
    assert refused[1]["address"] == ON_A_JOURNEY


@on_sqlite
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
    await ask_from(app, *networks, times=2)
    assert len(mailbox.messages) == FROM_ELSEWHERE


@on_sqlite
async def test_requests_from_one_address_are_limited(
    app: FastAPI, client: AsyncClient, clock: Clock
) -> None:
    async with client_of(app, STRANGER) as flooder:
        for number in range(RESET.allowed):
            assert (await ask(flooder, f"nobody{number}@x.example")).status_code == 202
        assert_problem(await ask(flooder), 429, "too_many_attempts")
        clock.advance(RESET.window)
        assert (await ask(flooder)).status_code == 202
    assert (await ask(client)).status_code == 202


@on_sqlite
async def test_messages_to_one_address_are_limited(
    app: FastAPI, client: AsyncClient, mailbox: MailServer, lancelot: int, clock: Clock
) -> None:
    assert lancelot
    for _ in range(FROM_ELSEWHERE + 1):
        assert (await ask(client)).status_code == 202
    await deliver(app)
    assert len(mailbox.messages) == FROM_ELSEWHERE - 1  # one was to verify the address
    assert len(set(map(code_in, mailbox.messages))) == len(mailbox.messages)
    mailbox.messages.clear()
    for _ in range(2 * FROM_ELSEWHERE):
        clock.advance(DAY / (2 * FROM_ELSEWHERE))
        await ask(client)
        await deliver(app)
    assert len(mailbox.messages) == FROM_ELSEWHERE


@on_sqlite
async def test_every_message_counts(
    app: FastAPI,
    client: AsyncClient,
    mailbox: MailServer,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(worker, "MAILBOX_FROM_ELSEWHERE", Rate(3, DAY / 3))
    for name in ("lancelot", "bors"):
        await register(client, {**LANCELOT, "username": name})
    await ask(client)
    await register(client, GALAHAD)
    await deliver(app)
    assert mailbox.recipients.count(LANCELOT["email"]) == 3
    assert mailbox.recipients.count(GALAHAD["email"]) == 1  # whatever was not sent to Lancelot
    (discarded,) = (record for record in caplog.records if record.name == "hourpass.mail")
    assert discarded.message == "Message discarded"
    assert LANCELOT["email"] not in str(vars(discarded))


async def test_queued_reset_requests_are_counted_and_logged_later(
    app: FastAPI, client: AsyncClient, mailbox: MailServer, lancelot: int, clock: Clock
) -> None:
    stopping = asyncio.Event()

    async def end(*_: object) -> None:
        stopping.set()

    for _ in range(FROM_ELSEWHERE + 1):
        await ask(client)
    state = app.state
    events = Events((*state.services.events.subscribers, Subscriber(end)))
    interrupted = MailWorker(state.database, state.settings, events, clock)
    assert await interrupted.run_once(stopping) == 1
    clock.advance(FIRST_DELAY)
    await deliver(app)
    assert len(mailbox.messages) == FROM_ELSEWHERE - 1  # one was to verify the address
    query: dict[str, Any] = {"subject_id": lancelot, "action": "password_reset."}
    headers = bearer(await log_in(client, ARTHUR))
    entries = (await client.get("/audit", params=query, headers=headers)).json()["entries"]
    assert len([entry for entry in entries if entry["succeeded"]]) == len(mailbox.messages)
    assert len(entries) == FROM_ELSEWHERE + 1


async def test_the_outbox_is_limited(
    app: FastAPI, client: AsyncClient, monkeypatch: pytest.MonkeyPatch, arthurs_token: str
) -> None:
    monkeypatch.setattr(mail, "MAX_WAITING", 3)
    assert [(await ask(client)).status_code for _ in range(5)] == [202] * 3 + [503] * 2
    lancelot = await register(client, LANCELOT)  # does not need the outbox
    path, headers = f"/users/{lancelot}/password-reset", bearer(arthurs_token)
    forced = await client.post(path, json={"by_mail": True}, headers=headers)
    assert forced.status_code == 200  # mail of administrators is not limited
    await deliver(app)
    assert (await ask(client)).status_code == 202


# Whose codes stay valid


async def test_a_user_has_a_limited_number_of_codes_besides_that_of_an_administrator(
    app: FastAPI, client: AsyncClient, arthurs_token: str
) -> None:
    """Nor do those of one user displace those of another."""
    headers = bearer(arthurs_token)
    lancelot, galahad = await register(client, LANCELOT), await register(client, GALAHAD)
    galahads = await issue(app, galahad, Purpose.RESET)
    forced = await client.post(f"/users/{lancelot}/password-reset", headers=headers)
    async with app.state.database.session() as session:
        context = context_in(session, app)
        await begin_write(session)
        issued = [
            parse_code((await codes.issue(context, Purpose.RESET, user_id=lancelot))[1])
            for _ in range(MAX_OPEN + 2)
        ]
        await session.commit()
        resets = select(func.count()).where(Code.purpose == Purpose.RESET, Code.user_id == lancelot)
        assert await session.scalar(resets) == MAX_OPEN
        for displaced in issued[:2]:
            with pytest.raises(InvalidCodeError):
                await codes.find(context, displaced, Purpose.RESET)
        await codes.find(context, issued[2], Purpose.RESET)  # is still valid
    assert (await confirm(client, forced.json()["code"])).status_code == 200
    assert (await confirm(client, galahads)).json()["user_id"] == galahad


async def test_accounts_of_others_with_my_address_do_not_prevent_my_code(
    app: FastAPI,
    client: AsyncClient,
    mailbox: MailServer,
    arthurs_token: str,
    clock: Clock,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(worker, "MAX_ACCOUNTS", 2)
    for number in range(2):
        await register(client, {**LANCELOT, "username": f"mordred{number}"})
    lancelot = await register(client, LANCELOT)
    path, body = f"/users/{lancelot}", {"email_verified": True}
    await client.patch(path, json=body, headers=bearer(arthurs_token))
    await deliver(app)
    clock.advance(MAILBOX.window)
    mailbox.messages.clear()
    caplog.clear()
    await ask(client)
    await deliver(app)
    assert len(mailbox.messages) == 2
    assert "Message discarded" not in caplog.messages  # the worker looked at no more accounts
    reset = await confirm(client, code_in(mailbox.messages[0]))
    assert reset.json()["user_id"] == lancelot


def test_the_texts_and_the_codes_fit_the_limits() -> None:
    assert MAILBOX_FROM_ELSEWHERE.burst == DAY / MAILBOX_FROM_ELSEWHERE.interval == 5
    assert "At most five" in (BUILT_IN / "en/reset.txt").read_text()
    assert "höchstens fünf" in (BUILT_IN / "de/reset.txt").read_text()
    assert LIFETIMES[Purpose.RESET] < MAILBOX_FROM_ELSEWHERE.interval
    assert MAILBOX_FROM_ELSEWHERE.burst + MAILBOX.allowed <= MAX_OPEN
    assert MAILBOX.window == DAY == MAILBOX_FROM_NETWORK.burst * MAILBOX_FROM_NETWORK.interval
    assert MAILBOX_FROM_NETWORK.burst == 3
    assert MAX_ACCOUNTS == MAILBOX.allowed == 5
