"""Mail that the server refuses, delays or accepts without a word is tried as long as it is useful,
with the same code."""

import asyncio
from datetime import timedelta
from email.message import EmailMessage
from itertools import pairwise
from typing import Any

import aiosmtplib
import pytest
from fastapi import FastAPI
from httpx import AsyncClient
from sqlalchemy import func, select

from app.audit.models import Entry
from app.mail import delivery, smtp, worker
from app.mail.delivery import ALIKE, FIRST_DELAY, MAX_DELAY
from app.mail.models import OutgoingMail
from app.mail.service import RETRY_PERIOD
from app.mail.worker import CLAIM_PERIOD, MAX_SENDING, MailWorker
from app.secret_rotation.encrypted_rows import count_secrets, encrypt_with_first
from app.security.one_time_codes.models import Code, EarlierHash
from app.security.one_time_codes.service import MAX_EARLIER
from app.settings import Settings
from app.tables import metadata
from tests.support.mail_server import (
    MailServer,
    code_in,
    deliver,
    mail_worker,
    stop_background_worker,
)
from tests.support.markers import on_sqlite
from tests.support.settings import Clock
from tests.support.users import LANCELOT, bearer, register
from tests.support.waiting import until

SENDER = "Camelot <no-reply@camelot.example>"
KEY = "the lady of the lake has this key"
NEW_KEY = "the lady of the lake gave this key"
run = MailWorker.run
NOBODY_LISTENS = "smtp+plain://127.0.0.1:9"


@pytest.fixture(autouse=True)
def no_rounds_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    stop_background_worker(monkeypatch)


@pytest.fixture
def settings(settings: Settings, mailbox: MailServer) -> Settings:
    mail = {"smtp_url": mailbox.url, "mail_from": SENDER, "secret_key": KEY}
    return Settings.model_validate({**settings.model_dump(), **mail})


def change(app: FastAPI, **values: object) -> None:
    """From now on, mail is sent with these settings."""
    app.state.settings = Settings.model_validate({**app.state.settings.model_dump(), **values})


async def invite(client: AsyncClient, token: str, email: str = LANCELOT["email"]) -> int:
    response = await client.post("/invitations", json={"email": email}, headers=bearer(token))
    assert response.status_code == 201, response.text
    number: int = response.json()["id"]
    return number


async def use(client: AsyncClient, message: EmailMessage, name: str = "lancelot") -> int:
    """Register with the invitation."""
    body = {**LANCELOT, "username": name, "invitation": code_in(message)}
    return (await client.post("/register-user", json=body)).status_code


async def states(client: AsyncClient, token: str) -> list[dict[str, Any]]:
    answer = await client.get("/invitations", headers=bearer(token))
    return [invitation["mail"] for invitation in answer.json()["invitations"]]


async def rows(app: FastAPI, table: type = OutgoingMail) -> int:
    async with app.state.database.session() as session:
        return await session.scalar(select(func.count()).select_from(table)) or 0


# The same message at each try


async def test_a_message_whose_acceptance_was_not_heard_is_sent_again_as_it_was(
    app: FastAPI, client: AsyncClient, mailbox: MailServer, clock: Clock, arthurs_token: str
) -> None:
    await invite(client, arthurs_token)
    mailbox.drops = True
    await deliver(app)
    mailbox.drops = False
    clock.advance(FIRST_DELAY)
    await deliver(app)
    first, second = mailbox.messages
    assert bytes(first) == bytes(second)  # code, Message-ID, Date and all
    assert first["Date"] == "Mon, 23 Nov 2026 12:00:00 +0000"
    assert await rows(app) == 0
    assert await rows(app, EarlierHash) == 0
    assert [await use(client, first), await use(client, second, "galahad")] == [201, 403]


async def test_a_message_whose_worker_died_after_the_server_accepted_it_is_sent_again_as_it_was(
    app: FastAPI, client: AsyncClient, mailbox: MailServer, clock: Clock, arthurs_token: str
) -> None:
    await invite(client, arthurs_token)
    mailbox.is_free.clear()
    dying = mail_worker(app)
    running = asyncio.create_task(dying.run_once(asyncio.Event()))
    await until(lambda: bool(mailbox.messages))
    for task in (running, *dying._sending):
        task.cancel()
    await asyncio.wait({running})
    mailbox.is_free.set()
    await deliver(app)
    assert len(mailbox.messages) == 1  # for all that others know, it is still being sent
    clock.advance(CLAIM_PERIOD)
    await deliver(app)
    first, second = mailbox.messages
    assert bytes(first) == bytes(second)
    assert await use(client, first) == 201


@pytest.mark.parametrize("key", [None, "mordred has changed the key of the castle"])
async def test_a_process_that_cannot_know_the_code_sends_another_valid_one(  # noqa: PLR0917 - fixtures
    app: FastAPI,
    client: AsyncClient,
    mailbox: MailServer,
    clock: Clock,
    arthurs_token: str,
    key: str | None,
) -> None:
    await invite(client, arthurs_token)
    mailbox.drops = True
    await deliver(app)
    change(app, secret_key=key)
    for _ in range(2):  # without SECRET_KEY, each process has a key of its own
        clock.advance(MAX_DELAY)
        await deliver(app)
    codes = {code_in(message) for message in mailbox.messages}
    ids = {message["Message-ID"] for message in mailbox.messages}
    assert len(codes) == len(ids) == (3 if key is None else 2)
    assert await use(client, mailbox.messages[0]) == 201
    assert await use(client, mailbox.messages[-1], "galahad") == 403
    assert await rows(app, EarlierHash) == 0


async def test_a_rotation_of_secret_key_does_not_change_the_message(
    app: FastAPI, client: AsyncClient, mailbox: MailServer, clock: Clock, arthurs_token: str
) -> None:
    await invite(client, arthurs_token)
    mailbox.drops = True
    await deliver(app)
    change(app, secret_key=f"{NEW_KEY},{KEY}")
    clock.advance(FIRST_DELAY)
    await deliver(app)
    async with app.state.database.session() as session:
        encrypted = await encrypt_with_first(session, app.state.settings, metadata, lambda _: None)
    assert encrypted.done >= 1
    change(app, secret_key=NEW_KEY)
    clock.advance(MAX_DELAY)
    await deliver(app)
    assert len({bytes(message) for message in mailbox.messages}) == 1
    assert len(mailbox.messages) == 3


async def test_a_code_that_no_value_decrypts_does_not_stop_a_rotation(
    app: FastAPI, client: AsyncClient, mailbox: MailServer, arthurs_token: str
) -> None:
    """Such as one that was encrypted before SECRET_KEY was set: a new one is sent."""
    change(app, secret_key=None)
    await invite(client, arthurs_token)
    mailbox.drops = True
    await deliver(app)
    change(app, secret_key=f"{NEW_KEY},{KEY}")
    async with app.state.database.session() as session:
        await encrypt_with_first(session, app.state.settings, metadata, lambda _: None)
        counts = await count_secrets(session, app.state.settings, metadata)
    assert {each.content: (each.replaceable, each.undecryptable) for each in counts} == {
        "queued codes": (1, 0),
        "second factors": (0, 0),
        "signing keys": (0, 0),
        "webhook secrets": (0, 0),
    }


@on_sqlite
async def test_without_a_secret_key_a_process_sends_the_same_code_again(
    app: FastAPI, client: AsyncClient, mailbox: MailServer, clock: Clock, arthurs_token: str
) -> None:
    change(app, secret_key=None)
    worker = mail_worker(app)
    await invite(client, arthurs_token)
    mailbox.drops = True
    await deliver(app, worker)
    clock.advance(FIRST_DELAY)
    await deliver(app, worker)
    first, second = mailbox.messages
    assert bytes(first) == bytes(second)


@pytest.mark.parametrize("key", [None, KEY])
async def test_the_code_of_a_waiting_message_is_stored_only_encrypted(
    app: FastAPI, client: AsyncClient, mailbox: MailServer, arthurs_token: str, key: str | None
) -> None:
    change(app, secret_key=key)
    await invite(client, arthurs_token)
    mailbox.drops = True
    await deliver(app)
    code = code_in(mailbox.messages[0])
    async with app.state.database.session() as session:
        stored = [
            str(row)
            for table in (OutgoingMail, Code, EarlierHash)
            for row in (await session.execute(select(table.__table__))).all()
        ]
        encrypted = await session.scalar(select(OutgoingMail.encrypted_code))
    assert not any(text in row for row in stored for text in (code, code.replace("-", "")))
    assert (encrypted or "").startswith("gAAAA")


async def test_only_the_latest_texts_of_a_code_stay_valid(
    app: FastAPI, client: AsyncClient, mailbox: MailServer, clock: Clock, arthurs_token: str
) -> None:
    change(app, secret_key=None)
    await invite(client, arthurs_token)
    mailbox.drops = True
    for _ in range(MAX_EARLIER + 2):
        await deliver(app)
        clock.advance(MAX_DELAY)
    assert await rows(app, EarlierHash) == MAX_EARLIER
    assert await use(client, mailbox.messages[0]) == 403
    assert await use(client, mailbox.messages[1]) == 201


# How long a try takes


@on_sqlite
async def test_the_reply_to_the_text_may_take_ten_minutes(
    app: FastAPI, client: AsyncClient, arthurs_token: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """RFC 5321, 4.5.3.2.6. All that comes before is bounded, so that no try outlasts its claim."""
    timeouts: dict[str, Any] = {}
    data, read = aiosmtplib.SMTP.data, aiosmtplib.SMTP.rcpt

    async def note_data(self: aiosmtplib.SMTP, text: bytes, *, timeout: float) -> Any:  # noqa: ASYNC109
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
async def test_a_server_that_never_replies_is_given_up(  # noqa: PLR0917 - fixtures
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
    assert await rows(app) == 1


async def test_slow_messages_do_not_hold_up_the_others(
    app: FastAPI,
    client: AsyncClient,
    mailbox: MailServer,
    arthurs_token: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(worker, "NEXT_MAIL_SECONDS", 0.05)
    mailbox.is_free.clear()
    for number in range(MAX_SENDING + 1):
        await invite(client, arthurs_token, f"knight{number}@camelot.example")
    running = asyncio.create_task(deliver(app))
    await until(lambda: len(mailbox.messages) == MAX_SENDING)
    await asyncio.sleep(4 * worker.NEXT_MAIL_SECONDS)
    assert len(mailbox.messages) == MAX_SENDING
    mailbox.is_free.set()
    await running
    assert len(mailbox.messages) == MAX_SENDING + 1
    assert await rows(app) == 0


async def test_a_process_that_ends_does_not_wait_for_a_slow_server(  # noqa: PLR0917 - fixtures
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


# What is final, and what the log says


def records(caplog: pytest.LogCaptureFixture) -> list[dict[str, Any]]:
    return [vars(record) for record in caplog.records if record.name == "hourpass.mail"]


REPLIES = [
    # at RCPT
    ("rcpt", "550 5.1.1 No such user", True, "5.1.1"),
    ("rcpt", "550-5.1.1 No such\r\n550 5.1.1 user", True, "5.1.1"),
    ("rcpt", "556 5.1.10 Null MX", True, "5.1.10"),
    ("rcpt", "550 no such user", True, None),
    ("rcpt", "553 5.1.7 Bad sender address", False, "5.1.7"),
    ("rcpt", "554 5.7.1 Relay access denied", False, "5.7.1"),
    ("rcpt", "552 5.2.2 Mailbox full", False, "5.2.2"),
    ("rcpt", "554 no", False, None),
    ("rcpt", "550 4.1.1 confused", True, None),
    ("rcpt", "450 4.1.1 later", False, "4.1.1"),
    ("rcpt", "451 later", False, None),
    ("rcpt", "421 closing", False, None),
    ("rcpt", "554 5.2.2.2 no code", False, None),
    # at the end of the text
    ("data", "550 5.1.1 No such user", True, "5.1.1"),
    ("data", "554 5.6.0 Spam", False, "5.6.0"),
    ("data", "550 Spam", False, None),
    ("data", "452 4.3.1 Full", False, "4.3.1"),
]


async def test_only_a_reply_about_the_recipient_is_final_and_all_are_logged(  # noqa: PLR0917 - fixtures
    app: FastAPI,
    client: AsyncClient,
    mailbox: MailServer,
    arthurs_token: str,
    caplog: pytest.LogCaptureFixture,
    subtests: pytest.Subtests,
) -> None:
    for number, (step, reply, *_) in enumerate(REPLIES):
        email = f"knight{number}@camelot.example"
        answers = mailbox.answers if step == "rcpt" else mailbox.text_answers
        answers[email] = reply.replace("No such", f"{email} is not")
        await invite(client, arthurs_token, email)
    await deliver(app)
    assert mailbox.messages == []
    shown = await states(client, arthurs_token)
    lines = sorted(records(caplog), key=lambda line: line["mail"])
    for (step, reply, is_final, code), state, line in zip(REPLIES, shown, lines, strict=True):
        with subtests.test(f"{step} {reply}"):
            assert state == {
                "state": "failed" if is_final else "queued",
                "reply_code": int(reply[:3]),
                "enhanced_code": code,
            }
            assert line["step"] == step
            assert (line["reply_code"], line["enhanced_code"]) == (int(reply[:3]), code)
            expected = "Message discarded" if is_final else "Cannot send a message, will retry"
            assert line["message"] == expected
            assert "knight" not in str(line)
    assert await rows(app) == sum(not is_final for _, _, is_final, _ in REPLIES)


@pytest.mark.parametrize(
    ("step", "error", "concerns_all"),
    [
        ("connect", OSError(), True),
        ("starttls", aiosmtplib.SMTPException("no TLS"), True),
        ("auth", aiosmtplib.SMTPAuthenticationError(535, "5.7.8 no"), True),
        ("mail", aiosmtplib.SMTPSenderRefused(550, "5.1.1 no", "x"), True),
        ("mail", aiosmtplib.SMTPNotSupported("SMTPUTF8"), False),
        ("rcpt", aiosmtplib.SMTPServerDisconnected("gone"), True),
        ("rcpt", aiosmtplib.SMTPRecipientRefused(421, "4.7.0 slow down", "x"), True),
        ("rcpt", aiosmtplib.SMTPRecipientRefused(451, "4.3.0 a moment", "x"), True),
        ("rcpt", aiosmtplib.SMTPRecipientRefused(451, "4.7.1 greylisted", "x"), False),
        ("rcpt", aiosmtplib.SMTPRecipientRefused(550, "5.1.1 no such user", "x"), False),
        ("data", TimeoutError(), True),
        (
            "data",
            aiosmtplib.SMTPDataError(
                554,
                "5.6.0 spam",
            ),
            False,
        ),
    ],
)
def test_some_failures_concern_all_mail(step: str, error: Exception, *, concerns_all: bool) -> None:
    assert smtp.SendError(step, error).concerns_all_mail is concerns_all


@on_sqlite
@pytest.mark.parametrize(
    ("url", "step"),
    [
        pytest.param(NOBODY_LISTENS, "connect", id="no server"),
        pytest.param("smtp://127.0.0.1:{port}", "starttls", id="no TLS"),
    ],
)
async def test_the_log_says_which_step_failed(  # noqa: PLR0917 - fixtures
    app: FastAPI,
    client: AsyncClient,
    mailbox: MailServer,
    arthurs_token: str,
    caplog: pytest.LogCaptureFixture,
    url: str,
    step: str,
) -> None:
    change(app, smtp_url=url.format(port=mailbox.url.rpartition(":")[2]))
    await invite(client, arthurs_token)
    await deliver(app)
    (line,) = records(caplog)
    assert (line["step"], line["reply_code"], line["enhanced_code"]) == (step, None, None)
    assert (await states(client, arthurs_token))[0]["state"] == "queued"


async def test_several_failures_in_a_row_that_are_alike_are_an_error(  # noqa: PLR0917 - fixtures
    app: FastAPI,
    client: AsyncClient,
    mailbox: MailServer,
    clock: Clock,
    arthurs_token: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    replies = ["554 5.7.1 no", *["550 5.7.1 no"] * ALIKE, None, "550 5.7.1 no"]
    for number, reply in enumerate(replies):
        email = f"knight{number}@camelot.example"
        if reply:
            mailbox.answers[email] = reply
        clock.advance(timedelta(seconds=1))  # mail is sent in this order
        await invite(client, arthurs_token, email)
    await deliver(app)
    levels = [line["levelname"] for line in records(caplog)]
    assert levels[: ALIKE + 2] == ["WARNING"] * ALIKE + ["ERROR", "WARNING"]


async def test_one_recipient_who_is_refused_again_and_again_is_not_an_error(  # noqa: PLR0917 - fixtures
    app: FastAPI,
    client: AsyncClient,
    mailbox: MailServer,
    clock: Clock,
    arthurs_token: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    mailbox.answers[LANCELOT["email"]] = "552 5.2.2 Mailbox full"
    await invite(client, arthurs_token)
    worker = mail_worker(app)
    for _ in range(2 * ALIKE):
        await deliver(app, worker)
        clock.advance(MAX_DELAY)
    assert {line["levelname"] for line in records(caplog)} == {"WARNING"}
    change(app, smtp_url=NOBODY_LISTENS)
    worker = mail_worker(app)
    for _ in range(ALIKE):  # but a server that is away is one
        await deliver(app, worker)
        clock.advance(MAX_DELAY)
    assert records(caplog)[-1]["levelname"] == "ERROR"


# When it is tried again


async def tries(app: FastAPI, clock: Clock) -> list[float]:
    """Lets time pass. When the message was tried, in minutes."""
    began, found = clock.now, []
    while await rows(app):
        await deliver(app)
        found.append((clock.now - began) / timedelta(minutes=1))
        async with app.state.database.session() as session:
            clock.now = await session.scalar(select(OutgoingMail.due_at)) or clock.now
    return found


async def test_a_reset_is_tried_often_while_its_code_is_valid(
    app: FastAPI, client: AsyncClient, clock: Clock
) -> None:
    await register(client, LANCELOT)
    await deliver(app)
    change(app, smtp_url=NOBODY_LISTENS)
    await client.post("/password-resets", json={"email": LANCELOT["email"]})
    assert await tries(app, clock) == [0, 1, 3, 6, 9, 12, 15, 18, 21, 24, 27]


@on_sqlite
async def test_an_invitation_is_tried_for_a_day_with_longer_and_longer_pauses(  # noqa: PLR0917 - fixtures
    app: FastAPI,
    client: AsyncClient,
    mailbox: MailServer,
    clock: Clock,
    arthurs_token: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    mailbox.answers[LANCELOT["email"]] = "452 4.2.2 Mailbox full"
    invitation = await invite(client, arthurs_token)
    found = await tries(app, clock)
    assert found[:8] == [0, 1, 3, 7, 15, 31, 63, 123]
    assert {later - earlier for earlier, later in pairwise(found[6:])} == {60}
    assert found[-1] < RETRY_PERIOD / timedelta(minutes=1) <= found[-1] + 60
    assert records(caplog)[-1]["message"] == "Message discarded"
    async with app.state.database.session() as session:
        entry = await session.scalar(select(Entry).where(Entry.action == "mail.fail"))
    assert entry
    assert f'"invitation":"{invitation}"' in entry.details
    assert '"enhanced_code":"4.2.2"' in entry.details


async def test_an_outage_of_a_quarter_of_an_hour_loses_no_reset(
    app: FastAPI, client: AsyncClient, mailbox: MailServer, clock: Clock
) -> None:
    await register(client, LANCELOT)
    await deliver(app)
    change(app, smtp_url=NOBODY_LISTENS)
    await client.post("/password-resets", json={"email": LANCELOT["email"]})
    for _ in range(16):
        await deliver(app)
        clock.advance(timedelta(minutes=1))
    change(app, smtp_url=mailbox.url)
    for _ in range(3):
        await deliver(app)
        clock.advance(timedelta(minutes=1))
    reset = {"code": mailbox.last_code(), "new_password": "guinevere in the garden"}
    assert (await client.post("/password-resets/confirm", json=reset)).status_code == 200


async def test_when_one_message_gets_through_all_that_wait_for_the_server_are_sent(
    app: FastAPI, client: AsyncClient, mailbox: MailServer, clock: Clock, arthurs_token: str
) -> None:
    mailbox.answers["mordred@orkney.example"] = "450 4.7.1 Greylisted"
    await invite(client, arthurs_token, "mordred@orkney.example")
    await deliver(app)
    mailbox.answers.clear()
    change(app, smtp_url=NOBODY_LISTENS)
    for number in range(3):
        await invite(client, arthurs_token, f"knight{number}@camelot.example")
    for _ in range(7):
        await deliver(app)
        clock.advance(FIRST_DELAY / 8)
    assert mailbox.messages == []
    change(app, smtp_url=mailbox.url)
    await invite(client, arthurs_token)
    await deliver(app)
    # Mordred's mailbox has replied, and has its own time.
    knights = [f"knight{number}@camelot.example" for number in range(3)]
    assert sorted(mailbox.recipients) == [*knights, LANCELOT["email"]]
    assert await rows(app) == 1


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
async def test_a_server_that_is_away_is_asked_once_in_a_round(
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


async def test_two_workers_that_find_the_server_again_do_not_wait_for_each_other(
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
