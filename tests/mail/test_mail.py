"""Mail reaches the server it is meant for, protected, once, and in the reader's language."""

import asyncio
import logging
import subprocess
import sys
import time
from datetime import timedelta
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from httpx import AsyncClient
from pydantic import ValidationError
from sqlalchemy import func, select, update

from app.database.engine import begin_write
from app.mail import delivery
from app.mail.delivery import FIRST_DELAY
from app.mail.messages import compose
from app.mail.models import OutgoingMail
from app.mail.service import RETRY_PERIOD
from app.mail.worker import BATCH_SIZE, CLAIM_PERIOD
from app.main import create_app
from app.retention.service import Retention
from app.settings import ROOT, Settings
from app.users.models import User
from tests.support.apps import client_of
from tests.support.certificates import certificate
from tests.support.mail_server import MailServer, deliver, mail_server, stop_background_worker
from tests.support.markers import on_sqlite
from tests.support.processes import environment
from tests.support.service_process import SERVE_TIMEOUT_SECONDS, two_services
from tests.support.settings import Clock, make_settings
from tests.support.users import GALAHAD, LANCELOT, register

SENDER = "Camelot <no-reply@camelot.example>"
MAILING = make_settings("sqlite:///x.db", smtp_url="smtp://mail.example", mail_from=SENDER)
BREAK = "=?utf-8?b?eA0KQmNjOiB2QHkuZXhhbXBsZQ==?="  # an encoded word (RFC 2047)


@pytest.fixture(autouse=True)
def no_rounds_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    stop_background_worker(monkeypatch)


@pytest.fixture
def settings(settings: Settings, mailbox: MailServer) -> Settings:
    mail = {"smtp_url": mailbox.url, "mail_from": SENDER}
    return Settings.model_validate({**settings.model_dump(), **mail})


async def waiting(app: FastAPI) -> int:
    async with app.state.database.session() as session:
        return await session.scalar(select(func.count()).select_from(OutgoingMail)) or 0


@on_sqlite
async def test_a_mail_is_plain_text_without_tracking(
    app: FastAPI, client: AsyncClient, mailbox: MailServer
) -> None:
    await register(client, LANCELOT)
    await deliver(app)
    (message,) = mailbox.messages
    assert message["From"] == SENDER
    assert message["To"] == LANCELOT["email"]
    assert message["Subject"] == "Please confirm your e-mail address"
    assert message["Auto-Submitted"] == "auto-generated"
    assert message["Content-Language"] == "en"
    assert message["Message-ID"].endswith("@camelot.example>")
    assert message["Date"]
    assert message.get_content_type() == "text/plain"
    text = message.get_content()
    assert app.state.settings.issuer in text
    assert text.count("://") == 1  # the service's own name, and no link
    assert await waiting(app) == 0


@on_sqlite
@pytest.mark.parametrize(("asked", "got"), [("de-AT, en;q=0.5", "de"), ("fr", "en"), ("", "en")])
async def test_a_mail_is_in_the_language_of_the_request(
    app: FastAPI, client: AsyncClient, mailbox: MailServer, asked: str, got: str
) -> None:
    client.headers["Accept-Language"] = asked
    await register(client, LANCELOT)
    await deliver(app)
    assert mailbox.messages[0]["Content-Language"] == got
    expected = {"de": "bestätigen Sie", "en": "confirm it"}[got]
    assert expected in mailbox.messages[0].get_content()


async def test_no_address_of_earlier_times_becomes_a_header(
    app: FastAPI, client: AsyncClient, mailbox: MailServer, caplog: pytest.LogCaptureFixture
) -> None:
    """It stands for "x", a line break, and a Bcc."""
    await register(client, LANCELOT)
    await register(client, GALAHAD)
    async with app.state.database.session() as session:
        await begin_write(session)
        for table in (User, OutgoingMail):
            stored = table.email == LANCELOT["email"]
            await session.execute(update(table).where(stored).values(email=f"{BREAK}@x.example"))
        await session.commit()
    await deliver(app)
    assert mailbox.recipients == [GALAHAD["email"]]
    assert await waiting(app) == 0
    assert "Message discarded" in caplog.messages


async def test_a_temporarily_rejected_mail_is_sent_later(
    app: FastAPI, client: AsyncClient, mailbox: MailServer, clock: Clock
) -> None:
    mailbox.answers[LANCELOT["email"]] = "451 Try again later"
    await register(client, LANCELOT)
    await deliver(app)
    await deliver(app)
    assert await waiting(app) == 1
    mailbox.answers.clear()
    await deliver(app)
    assert mailbox.messages == []  # not yet
    clock.advance(FIRST_DELAY)
    await deliver(app)
    assert mailbox.recipients == [LANCELOT["email"]]
    assert await waiting(app) == 0


async def test_each_time_it_waits_twice_as_long(
    app: FastAPI, client: AsyncClient, mailbox: MailServer, clock: Clock
) -> None:
    mailbox.answers[LANCELOT["email"]] = "451 Try again later"
    await register(client, LANCELOT)
    await deliver(app)
    clock.advance(FIRST_DELAY)
    await deliver(app)
    mailbox.answers.clear()
    clock.advance(FIRST_DELAY)
    await deliver(app)
    assert mailbox.messages == []
    clock.advance(FIRST_DELAY)
    await deliver(app)
    assert mailbox.recipients == [LANCELOT["email"]]


async def test_a_message_whose_worker_died_is_sent_by_another_one(
    app: FastAPI,
    client: AsyncClient,
    mailbox: MailServer,
    clock: Clock,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def die(*_: object) -> None:
        raise asyncio.CancelledError

    await register(client, LANCELOT)
    with monkeypatch.context() as patch:
        patch.setattr(delivery, "send", die)
        await deliver(app)
    await deliver(app)
    assert mailbox.messages == []  # it might still be alive
    clock.advance(CLAIM_PERIOD)
    await deliver(app)
    assert mailbox.recipients == [LANCELOT["email"]]


async def test_an_error_with_one_mail_does_not_prevent_the_others(
    app: FastAPI,
    client: AsyncClient,
    mailbox: MailServer,
    clock: Clock,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(settings: Settings, name: str, to: str, languages: str, **values: Any) -> EmailMessage:
        if to == LANCELOT["email"]:
            raise LookupError(to)
        return compose(settings, name, to, languages, **values)

    await register(client, LANCELOT)
    await register(client, GALAHAD)
    with monkeypatch.context() as patch:
        patch.setattr(delivery, "compose", fail)
        await deliver(app)
    assert mailbox.recipients == [GALAHAD["email"]]
    clock.advance(FIRST_DELAY)
    await deliver(app)
    assert mailbox.recipients == [GALAHAD["email"], LANCELOT["email"]]


async def test_what_it_refuses_for_good_is_not_tried_again_and_named_in_no_log(
    app: FastAPI, client: AsyncClient, mailbox: MailServer, caplog: pytest.LogCaptureFixture
) -> None:
    email = LANCELOT["email"]
    mailbox.answers[email] = f"550 no such user here: {email}"
    await register(client, LANCELOT)
    with caplog.at_level(logging.WARNING, logger="hourpass"):
        await deliver(app)
    assert await waiting(app) == 0
    records = [record for record in caplog.records if record.name == "hourpass.mail"]
    assert [record.message for record in records] == ["Message discarded"]
    assert not any(email in str(vars(record)) for record in records)


@on_sqlite
async def test_a_server_without_the_letters_of_an_address_is_asked_once(
    database_url: str, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    async with mail_server(utf8=False) as server:
        settings = make_settings(database_url, smtp_url=server.url, mail_from=SENDER)
        app = create_app(settings, clock, clock)
        async with app.router.lifespan_context(app), client_of(app) as client:
            await register(client, {**LANCELOT, "email": "straße@camelot.example"})
            await register(client, GALAHAD)
            await deliver(app)
            assert await waiting(app) == 0
    assert server.recipients == [GALAHAD["email"]]
    assert "Message discarded" in caplog.messages


async def test_without_its_server_mail_waits_for_a_day(
    app: FastAPI, client: AsyncClient, settings: Settings, clock: Clock, mailbox: MailServer
) -> None:
    free = settings.model_dump()["smtp_url"].get_secret_value().rpartition(":")[0] + ":9"
    app.state.settings = Settings.model_validate({**settings.model_dump(), "smtp_url": free})
    await register(client, LANCELOT)
    await deliver(app)
    assert await waiting(app) == 1
    housekeeping = Retention(app.state.database, settings)
    clock.advance(RETRY_PERIOD - timedelta(minutes=1))
    assert await housekeeping.run_once()
    assert await waiting(app) == 1
    clock.advance(timedelta(minutes=1))
    assert await housekeeping.run_once()
    assert await waiting(app) == 0
    assert mailbox.messages == []


async def test_two_workers_send_each_mail_once(
    app: FastAPI, client: AsyncClient, mailbox: MailServer
) -> None:
    people = [
        {**LANCELOT, "username": f"knight{n}", "email": f"k{n}@camelot.example"}
        for n in range(BATCH_SIZE + 5)
    ]
    for person in people:
        await register(client, person)
    await asyncio.gather(*(deliver(app) for _ in range(4)))
    while await waiting(app):
        await deliver(app)
    assert sorted(mailbox.recipients) == sorted(person["email"] for person in people)


@on_sqlite
@pytest.mark.parametrize("is_trusted", [True, False])
async def test_name_and_password_are_sent_only_over_tls_to_a_server_with_a_valid_certificate(
    database_url: str,
    tmp_path: Path,
    clock: Clock,
    monkeypatch: pytest.MonkeyPatch,
    *,
    is_trusted: bool,
) -> None:
    context = certificate(tmp_path)
    if is_trusted:
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "cert.pem"))
    async with mail_server(context, login=True) as server:
        port = server.url.rpartition(":")[2]
        url = f"smtp://camelot:p%40ss@localhost:{port}"
        settings = make_settings(database_url, smtp_url=url, mail_from=SENDER)
        app = create_app(settings, clock, clock)
        async with app.router.lifespan_context(app), client_of(app) as client:
            await register(client, LANCELOT)
            await deliver(app)
    assert len(server.messages) == (1 if is_trusted else 0)
    assert server.logins == ([(b"camelot", b"p@ss")] if is_trusted else [])


@on_sqlite
async def test_a_server_without_tls_is_sent_nothing_unless_that_was_asked_for(
    database_url: str, clock: Clock, mailbox: MailServer
) -> None:
    url = mailbox.url.replace("smtp+plain", "smtp")
    app = create_app(make_settings(database_url, smtp_url=url, mail_from=SENDER), clock, clock)
    async with app.router.lifespan_context(app), client_of(app) as client:
        await register(client, LANCELOT)
        await deliver(app)
        assert mailbox.messages == []
        assert await waiting(app) == 1


async def test_the_service_sends_mail_in_the_background(
    database_url: str, mailbox: MailServer
) -> None:
    def serve_until_sent() -> None:
        mail = {"SMTP_URL": mailbox.url, "MAIL_FROM": SENDER}
        with two_services(database_url, **mail) as (base_url, _):
            assert httpx.post(f"{base_url}/register-user", json=LANCELOT).status_code == 201
            deadline = time.monotonic() + SERVE_TIMEOUT_SECONDS
            while not mailbox.messages and time.monotonic() < deadline:
                time.sleep(0.05)

    await asyncio.to_thread(serve_until_sent)
    assert mailbox.recipients == [LANCELOT["email"]]


async def test_the_command_tells_whether_mail_can_be_sent(
    mailbox: MailServer, tmp_path: Path
) -> None:
    def run(**settings: str) -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, "-m", "hourpass", "test-mail", LANCELOT["email"]]
        return subprocess.run(
            command,
            cwd=ROOT,
            env=environment(**settings),
            capture_output=True,
            text=True,
            check=False,
        )

    sent = await asyncio.to_thread(run, SMTP_URL=mailbox.url, MAIL_FROM=SENDER)
    assert (sent.returncode, sent.stderr) == (0, "")
    assert sent.stdout == f"Sent a mail to {LANCELOT['email']}.\n"
    assert mailbox.messages[0]["Subject"] == "Test message from http://localhost:8000"
    mailbox.answers[LANCELOT["email"]] = "550 no such user"
    refused = await asyncio.to_thread(run, SMTP_URL=mailbox.url, MAIL_FROM=SENDER)
    assert refused.returncode == 1
    assert "no such user" in refused.stderr
    unset = await asyncio.to_thread(run)
    assert unset.stderr == "Error: This service sends no mail. Set SMTP_URL and MAIL_FROM.\n"
    (tmp_path / "en").mkdir()
    (tmp_path / "en" / "test.txt").write_text("Dear $name")
    own = {"SMTP_URL": mailbox.url, "MAIL_FROM": SENDER, "MAIL_TEMPLATES": str(tmp_path)}
    wrong = await asyncio.to_thread(run, **own)
    assert wrong.stderr.startswith("Error: MAIL_TEMPLATES: ")


@pytest.mark.parametrize(
    ("url", "sender"),
    [
        ("http://mail.example", SENDER),
        ("smtp://", SENDER),
        ("smtp://mail.example/path", SENDER),
        ("smtp://mail.example:99999", SENDER),
        ("smtp://mail.example:0", SENDER),
        ("smtp://user@mail.example", SENDER),
        ("smtp+plain://user:secret@mail.example", SENDER),
        ("smtp://mail.example", None),
        ("smtp://mail.example", "nobody"),
        ("smtp://mail.example", "a@b.example\nBcc: x@y.example"),
        ("smtp://mail.example", f"{BREAK} <a@b.example>"),
        ("smtp://mail.example", "=?utf-8?q?a?=@b.example"),
        ("smtp://mail.example", "a@x.example, b@x.example"),
        ("smtp://mail.example", "A <a@x.example>, B <b@x.example>"),
        ("smtp://mail.example", "a@x.example; b@x.example"),
        ("smtp://mail.example", "a@x.example b@x.example"),
        ("smtp://mail.example", "<a@x.example><b@x.example>"),
        ("smtp://mail.example", "Round table: a@x.example, b@x.example;"),
        ("smtp://mail.example", "Round table: a@x.example;"),
        ("smtp://mail.example", "Camelot, Inc <a@x.example>"),
    ],
)
def test_invalid_settings_are_rejected_at_the_start(url: str, sender: str | None) -> None:
    with pytest.raises(ValidationError) as refused:
        make_settings("sqlite:///x.db", smtp_url=url, mail_from=sender)
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize(
    ("sender", "used"),
    [
        ("a@x.example", "a@x.example"),
        ("<a@x.example>", "a@x.example"),
        ('"Camelot, Inc" <a@x.example>', '"Camelot, Inc" <a@x.example>'),
        ("Dr. Merlin <a@x.example>", '"Dr. Merlin" <a@x.example>'),
        ("a@x.example (Camelot)", "Camelot <a@x.example>"),
    ],
)
def test_one_sender_is_accepted(sender: str, used: str) -> None:
    assert make_settings("sqlite:///x.db", mail_from=sender).mail_from == used


@pytest.mark.parametrize("scheme", ["smtp", "smtps", "smtp+plain"])
def test_valid_settings_are_accepted(scheme: str) -> None:
    settings = make_settings(
        "sqlite:///x.db", smtp_url=f"{scheme}://mail.example", mail_from=SENDER
    )
    assert settings.mail_from == SENDER
    assert "mail.example" not in repr(settings)
