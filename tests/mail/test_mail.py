"""Each mail is sent once, to the right mail server, encrypted and in the reader's language."""

import asyncio
import time
from datetime import timedelta
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import httpx
import pytest
from click.testing import Result
from fastapi import FastAPI
from httpx import AsyncClient
from pydantic import ValidationError
from sqlalchemy import func, select, update

from app.database.engine import begin_write
from app.mail import delivery, worker
from app.mail.delivery import FIRST_DELAY
from app.mail.messages import compose
from app.mail.models import OutgoingMail
from app.mail.service import RETRY_PERIOD
from app.main import create_app
from app.maintenance.retention.service import Retention
from app.settings import Settings
from app.users.models import User
from tests.support.apps import client_of
from tests.support.certificates import certificate
from tests.support.commands import assert_refused, run
from tests.support.mail_server import MailServer, deliver, mail_server
from tests.support.markers import on_sqlite
from tests.support.service_process import SERVE_TIMEOUT_SECONDS, serving
from tests.support.settings import ARTHUR_ADMINISTERS, Clock, make_settings
from tests.support.users import GALAHAD, LANCELOT, register

SENDER = "Camelot <no-reply@camelot.example>"
MAILING = make_settings("sqlite:///x.db", smtp_url="smtp://mail.example", mail_from=SENDER)
BREAK = "=?utf-8?b?eA0KQmNjOiB2QHkuZXhhbXBsZQ==?="  # an encoded word (RFC 2047)


@pytest.fixture
def settings(database_url: str, mailbox: MailServer) -> Settings:
    return make_settings(database_url, **ARTHUR_ADMINISTERS, smtp_url=mailbox.url, mail_from=SENDER)


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
async def test_a_mail_is_in_the_language_of_the_request(
    app: FastAPI, client: AsyncClient, mailbox: MailServer
) -> None:
    for person, accepted in ((LANCELOT, "de-AT, en;q=0.5"), (GALAHAD, "fr")):
        client.headers["Accept-Language"] = accepted
        await register(client, person)
    await deliver(app)
    messages = dict(zip(mailbox.recipients, mailbox.messages, strict=True))
    for person, language, text in (
        (LANCELOT, "de", "bestätigen Sie"),
        (GALAHAD, "en", "confirm it"),
    ):
        assert messages[person["email"]]["Content-Language"] == language
        assert text in messages[person["email"]].get_content()


@on_sqlite
async def test_a_stored_address_with_an_encoded_word_becomes_no_header(
    app: FastAPI, client: AsyncClient, mailbox: MailServer, caplog: pytest.LogCaptureFixture
) -> None:
    """Earlier versions accepted it. It encodes "x", a line break, and a Bcc."""
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


@on_sqlite
async def test_a_temporarily_rejected_mail_is_sent_after_longer_and_longer_delays(
    app: FastAPI, client: AsyncClient, mailbox: MailServer, clock: Clock
) -> None:
    await register(client, LANCELOT)
    for delay in (FIRST_DELAY, 2 * FIRST_DELAY):
        mailbox.answers[LANCELOT["email"]] = "451 Try again later"
        await deliver(app)
        assert await waiting(app) == 1
        mailbox.answers.clear()
        clock.advance(delay - timedelta(seconds=1))
        await deliver(app)
        assert mailbox.messages == []  # not yet
        clock.advance(timedelta(seconds=1))
    await deliver(app)
    assert mailbox.recipients == [LANCELOT["email"]]
    assert await waiting(app) == 0


@on_sqlite
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


@on_sqlite
async def test_an_address_that_the_server_does_not_support_is_tried_once(
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
    app.state.settings = make_settings(
        settings.database_url, smtp_url="smtp+plain://127.0.0.1:9", mail_from=SENDER
    )
    await register(client, LANCELOT)
    await deliver(app)
    assert await waiting(app) == 1
    retention = Retention(app.state.database, settings)
    clock.advance(RETRY_PERIOD - timedelta(minutes=1))
    assert await retention.run_once()
    assert await waiting(app) == 1
    clock.advance(timedelta(minutes=1))
    assert await retention.run_once()
    assert await waiting(app) == 0
    assert mailbox.messages == []


async def test_several_workers_send_each_mail_once(
    app: FastAPI, client: AsyncClient, mailbox: MailServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "BATCH_SIZE", 2)
    people = [
        {**LANCELOT, "username": f"knight{n}", "email": f"k{n}@camelot.example"} for n in range(5)
    ]
    for person in people:
        await register(client, person)
    await asyncio.gather(*(deliver(app) for _ in range(3)))
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


@on_sqlite
async def test_the_service_sends_mail_in_the_background(
    database_url: str, mailbox: MailServer
) -> None:
    def serve_until_sent() -> None:
        mail = {"SMTP_URL": mailbox.url, "MAIL_FROM": SENDER}
        with serving(database_url, **mail) as base_url:
            assert httpx.post(f"{base_url}/register-user", json=LANCELOT).status_code == 201
            deadline = time.monotonic() + SERVE_TIMEOUT_SECONDS
            while not mailbox.messages and time.monotonic() < deadline:
                time.sleep(0.05)

    await asyncio.to_thread(serve_until_sent)
    assert mailbox.recipients == [LANCELOT["email"]]


async def test_the_command_tells_whether_mail_can_be_sent(
    mailbox: MailServer, tmp_path: Path
) -> None:
    async def test_mail(**settings: str) -> Result:
        return await asyncio.to_thread(run, "mail", "test", LANCELOT["email"], **settings)

    mail = {"SMTP_URL": mailbox.url, "MAIL_FROM": SENDER}
    sent = await test_mail(**mail)
    assert (sent.exit_code, sent.stderr) == (0, "")
    assert sent.stdout == f"Sent a mail to {LANCELOT['email']}.\n"
    assert mailbox.messages[0]["Subject"] == "Test message from http://localhost:8000"
    mailbox.answers[LANCELOT["email"]] = "550 no such user"
    assert_refused(await test_mail(**mail), "no such user")
    assert_refused(await test_mail(), "This service sends no mail. Set SMTP_URL and MAIL_FROM.")
    (tmp_path / "en").mkdir()
    (tmp_path / "en" / "test.txt").write_text("Dear $name")
    assert_refused(await test_mail(**mail, MAIL_TEMPLATES=str(tmp_path)), "MAIL_TEMPLATES: ")


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
