"""Mail that was not sent is tried again as long as it is useful, and no try takes too long."""

import asyncio
from datetime import timedelta
from itertools import pairwise
from typing import Any

import aiosmtplib
import pytest
from fastapi import FastAPI
from httpx import AsyncClient
from sqlalchemy import select

from app.audit.models import Entry
from app.mail import delivery, smtp, worker
from app.mail.delivery import FIRST_DELAY
from app.mail.models import OutgoingMail
from app.mail.service import RETRY_PERIOD
from app.mail.worker import CLAIM_PERIOD, MailWorker
from tests.support.mail_server import (
    MailServer,
    deliver,
    mail_worker,
)
from tests.support.mailed_invitations import (
    NOBODY_LISTENS,
    change,
    count,
    invite,
    records,
    settings,
)
from tests.support.markers import on_postgresql, on_sqlite
from tests.support.settings import Clock
from tests.support.users import LANCELOT, register
from tests.support.waiting import until

__all__ = ["settings"]

run = MailWorker.run


# When it is tried again


async def tries(app: FastAPI, clock: Clock, span: timedelta = timedelta.max) -> list[float]:
    """Let time pass until the message is discarded, or until the first try after the span. Returns
    when it was tried, in minutes."""
    began, found = clock.now, []
    while await count(app) and clock.now - began < span:
        await deliver(app)
        found.append((clock.now - began) / timedelta(minutes=1))
        async with app.state.database.session() as session:
            clock.now = await session.scalar(select(OutgoingMail.due_at)) or clock.now
    return found


@on_sqlite
async def test_a_reset_is_tried_often_while_its_code_is_valid(
    app: FastAPI,
    client: AsyncClient,
    mailbox: MailServer,
    clock: Clock,
    subtests: pytest.Subtests,
) -> None:
    await register(client, LANCELOT)
    await deliver(app)
    with subtests.test("all tries"):
        change(app, smtp_url=NOBODY_LISTENS)
        await client.post("/password-resets", json={"email": LANCELOT["email"]})
        assert await tries(app, clock) == [0, 1, 3, 6, 9, 12, 15, 18, 21, 24, 27]
    with subtests.test("an outage of a quarter of an hour loses no reset"):
        await client.post("/password-resets", json={"email": LANCELOT["email"]})
        await tries(app, clock, timedelta(minutes=16))
        change(app, smtp_url=mailbox.url)
        await deliver(app)
        reset = {"code": mailbox.last_code(), "new_password": "guinevere in the garden"}
        assert (await client.post("/password-resets/confirm", json=reset)).status_code == 200


@on_sqlite
async def test_an_invitation_is_tried_for_a_day_with_longer_and_longer_pauses(
    app: FastAPI,
    client: AsyncClient,
    mailbox: MailServer,
    clock: Clock,
    arthurs_token: str,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert timedelta(days=1) == RETRY_PERIOD
    monkeypatch.setattr(delivery, "RETRY_PERIOD", timedelta(hours=12))  # a day has more of the same
    mailbox.answers[LANCELOT["email"]] = "452 4.2.2 Mailbox full"
    invitation = await invite(client, arthurs_token)
    found = await tries(app, clock)
    assert found[:8] == [0, 1, 3, 7, 15, 31, 63, 123]
    assert {later - earlier for earlier, later in pairwise(found[6:])} == {60}
    assert found[-1] < 720 <= found[-1] + 60
    assert records(caplog)[-1]["message"] == "Message discarded"
    async with app.state.database.session() as session:
        entry = await session.scalar(select(Entry).where(Entry.action == "mail.fail"))
    assert entry
    assert f'"invitation":"{invitation}"' in entry.details
    assert '"enhanced_code":"4.2.2"' in entry.details


async def test_after_one_message_is_sent_all_that_wait_for_the_server_are_due(
    app: FastAPI, client: AsyncClient, mailbox: MailServer, clock: Clock, arthurs_token: str
) -> None:
    mailbox.answers["mordred@orkney.example"] = "450 4.7.1 Greylisted"
    await invite(client, arthurs_token, "mordred@orkney.example")
    await deliver(app)
    mailbox.answers.clear()
    change(app, smtp_url=NOBODY_LISTENS)
    for number in range(2):
        await invite(client, arthurs_token, f"knight{number}@camelot.example")
    await deliver(app)
    clock.advance(FIRST_DELAY * 7 / 8)
    assert mailbox.messages == []
    change(app, smtp_url=mailbox.url)
    await invite(client, arthurs_token)
    await deliver(app)
    # Mordred's mailbox has replied, and has its own time.
    knights = [f"knight{number}@camelot.example" for number in range(2)]
    assert sorted(mailbox.recipients) == [*knights, LANCELOT["email"]]
    assert await count(app) == 1


async def test_a_message_that_another_worker_is_sending_is_not_among_them(
    app: FastAPI, client: AsyncClient, mailbox: MailServer, clock: Clock, arthurs_token: str
) -> None:
    change(app, smtp_url=NOBODY_LISTENS)
    await invite(client, arthurs_token)
    await deliver(app)
    clock.advance(FIRST_DELAY)
    async with app.state.database.session() as session:
        waiting = await session.scalar(select(OutgoingMail.id))
        assert await mail_worker(app).claim(session, waiting)
    change(app, smtp_url=mailbox.url)
    await invite(client, arthurs_token, "galahad@camelot.example")
    await deliver(app)
    assert mailbox.recipients == ["galahad@camelot.example"]


@on_sqlite
async def test_an_unavailable_server_is_tried_once_per_run(
    app: FastAPI, client: AsyncClient, arthurs_token: str, mailbox: MailServer
) -> None:
    change(app, smtp_url=NOBODY_LISTENS)
    for number in range(3):
        await invite(client, arthurs_token, f"knight{number}@camelot.example")
    sending = mail_worker(app)
    assert await sending.run_once(asyncio.Event()) == 1
    change(app, smtp_url=mailbox.url)
    await deliver(app)
    assert len(mailbox.messages) == 3


@on_postgresql
async def test_two_workers_that_reach_the_server_again_do_not_deadlock(
    app: FastAPI, client: AsyncClient, mailbox: MailServer, arthurs_token: str
) -> None:
    change(app, smtp_url=NOBODY_LISTENS)
    for number in range(6):
        await invite(client, arthurs_token, f"knight{number}@camelot.example")
    await deliver(app)
    change(app, smtp_url=mailbox.url)
    for number in range(2):
        await invite(client, arthurs_token, f"king{number}@camelot.example")
    await asyncio.gather(deliver(app), deliver(app))
    await deliver(app)
    assert len(mailbox.recipients) == len(set(mailbox.recipients)) == 8


@on_sqlite
async def test_an_unexpected_error_is_tried_again_soon(
    app: FastAPI,
    client: AsyncClient,
    mailbox: MailServer,
    clock: Clock,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def fail(*_: object) -> None:
        raise LookupError

    await register(client, LANCELOT)
    with monkeypatch.context() as patch:
        patch.setattr(MailWorker, "_expand", fail)
        await deliver(app)
    clock.advance(FIRST_DELAY)
    await deliver(app)
    assert mailbox.recipients == [LANCELOT["email"]]


# How long a try takes


@on_sqlite
async def test_the_reply_to_the_text_may_take_ten_minutes(
    app: FastAPI, client: AsyncClient, arthurs_token: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """RFC 5321, 4.5.3.2.6. All that comes before is bounded, so that no try outlasts its claim."""
    timeouts: dict[str, Any] = {}
    data, read = aiosmtplib.SMTP.data, aiosmtplib.SMTP.rcpt

    async def note_data(self: aiosmtplib.SMTP, text: bytes, *, timeout: float) -> Any:  # noqa: ASYNC109 - as theirs
        timeouts["data"] = timeout
        return await data(self, text, timeout=timeout)

    async def note_rcpt(self: aiosmtplib.SMTP, *given: Any, **named: Any) -> Any:
        timeouts["rcpt"] = named.get("timeout", self.timeout)
        return await read(self, *given, **named)

    monkeypatch.setattr(aiosmtplib.SMTP, "data", note_data)
    monkeypatch.setattr(aiosmtplib.SMTP, "rcpt", note_rcpt)
    await invite(client, arthurs_token)
    await deliver(app)
    assert timeouts["data"] >= 600
    assert timeouts["rcpt"] <= 60
    assert CLAIM_PERIOD.total_seconds() > smtp.MAX_SECONDS + delivery.STOP_SECONDS


@on_sqlite
async def test_a_try_ends_if_the_server_never_replies(
    app: FastAPI,
    client: AsyncClient,
    mailbox: MailServer,
    arthurs_token: str,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(smtp, "TEXT_SECONDS", 0.1)
    mailbox.is_free.clear()
    await invite(client, arthurs_token)
    await deliver(app)
    (record,) = records(caplog)
    assert (record["step"], record["reply_code"]) == ("data", None)
    assert await count(app) == 1


@on_sqlite
async def test_slow_messages_do_not_hold_up_the_others(
    app: FastAPI,
    client: AsyncClient,
    mailbox: MailServer,
    arthurs_token: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(worker, "NEXT_MAIL_SECONDS", 0.05)
    monkeypatch.setattr(worker, "MAX_SENDING", 2)
    mailbox.is_free.clear()
    for number in range(3):
        await invite(client, arthurs_token, f"knight{number}@camelot.example")
    running = asyncio.create_task(deliver(app))
    await until(lambda: len(mailbox.messages) == 2)
    await asyncio.sleep(4 * worker.NEXT_MAIL_SECONDS)
    assert len(mailbox.messages) == 2
    mailbox.is_free.set()
    await running
    assert len(mailbox.messages) == 3
    assert await count(app) == 0


@on_sqlite
async def test_a_process_that_ends_does_not_wait_for_a_slow_server(
    app: FastAPI,
    client: AsyncClient,
    mailbox: MailServer,
    clock: Clock,
    arthurs_token: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(delivery, "STOP_SECONDS", 0.1)
    mailbox.is_free.clear()
    await invite(client, arthurs_token)
    stopping = asyncio.Event()
    running = asyncio.create_task(run(mail_worker(app), stopping))
    await until(lambda: bool(mailbox.messages))
    stopping.set()
    async with asyncio.timeout(60):
        await running
    mailbox.is_free.set()
    clock.advance(FIRST_DELAY)
    await deliver(app)  # another process
    first, second = mailbox.messages
    assert bytes(first) == bytes(second)
