"""Which failures of mail are final, and what the log says about them."""

from datetime import timedelta

import aiosmtplib
import pytest
from fastapi import FastAPI
from httpx import AsyncClient

from app.mail import smtp
from app.mail.delivery import FIRST_DELAY, IDENTICAL_FAILURES, MAX_DELAY
from tests.support.mail_server import MailServer, deliver, mail_worker
from tests.support.mailed_invitations import (
    NOBODY_LISTENS,
    change,
    count,
    invite,
    records,
    settings,
    states_of_mail,
)
from tests.support.markers import on_sqlite
from tests.support.settings import Clock
from tests.support.users import LANCELOT

__all__ = ["settings"]


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


@on_sqlite
async def test_only_a_reply_about_the_recipient_is_final_and_all_are_logged(
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
    shown = await states_of_mail(client, arthurs_token)
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
    assert await count(app) == sum(not is_final for _, _, is_final, _ in REPLIES)


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
async def test_the_log_says_which_step_failed(
    app: FastAPI,
    client: AsyncClient,
    mailbox: MailServer,
    clock: Clock,
    arthurs_token: str,
    caplog: pytest.LogCaptureFixture,
    subtests: pytest.Subtests,
) -> None:
    await invite(client, arthurs_token)
    for name, url, step in (
        ("no server", NOBODY_LISTENS, "connect"),
        ("no TLS", mailbox.url.replace("smtp+plain", "smtp"), "starttls"),
    ):
        with subtests.test(name):
            change(app, smtp_url=url)
            await deliver(app)
            (line,) = records(caplog)
            assert (line["step"], line["reply_code"], line["enhanced_code"]) == (step, None, None)
            assert (await states_of_mail(client, arthurs_token))[0]["state"] == "queued"
        caplog.clear()
        clock.advance(FIRST_DELAY)


@on_sqlite
async def test_several_identical_failures_in_a_row_are_an_error(
    app: FastAPI,
    client: AsyncClient,
    mailbox: MailServer,
    clock: Clock,
    arthurs_token: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    replies = ["554 5.7.1 no", *["550 5.7.1 no"] * IDENTICAL_FAILURES, None, "550 5.7.1 no"]
    for number, reply in enumerate(replies):
        email = f"knight{number}@camelot.example"
        if reply:
            mailbox.answers[email] = reply
        clock.advance(timedelta(seconds=1))  # mail is sent in this order
        await invite(client, arthurs_token, email)
    await deliver(app)
    levels = [line["levelname"] for line in records(caplog)]
    assert levels[: IDENTICAL_FAILURES + 2] == ["WARNING"] * IDENTICAL_FAILURES + [
        "ERROR",
        "WARNING",
    ]


@on_sqlite
async def test_repeated_failures_of_one_recipient_are_not_an_error(
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
    for _ in range(2 * IDENTICAL_FAILURES):
        await deliver(app, worker)
        clock.advance(MAX_DELAY)
    assert {line["levelname"] for line in records(caplog)} == {"WARNING"}
    change(app, smtp_url=NOBODY_LISTENS)
    worker = mail_worker(app)
    for _ in range(IDENTICAL_FAILURES):  # but a server that is away is one
        await deliver(app, worker)
        clock.advance(MAX_DELAY)
    assert records(caplog)[-1]["levelname"] == "ERROR"
