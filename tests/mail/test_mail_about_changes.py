"""A mail tells users that their address or password was changed. It goes to the former address."""

from email.message import EmailMessage

import pytest
from fastapi import FastAPI
from httpx import AsyncClient

from app.mail import service as mail
from tests.support.commands import Command, hourpass
from tests.support.mail_server import MailServer, deliver
from tests.support.markers import on_sqlite
from tests.support.settings import utc_now
from tests.support.users import ARTHUR, LANCELOT, bearer, log_in, register

__all__ = ["hourpass"]

pytestmark = pytest.mark.sends_mail

NEW_EMAIL = "lake@avalon.example"
PROOF = {"password": LANCELOT["password"]}


async def lancelot(app: FastAPI, client: AsyncClient, mailbox: MailServer) -> dict[str, str]:
    """The headers of a user with a verified address and an empty mailbox."""
    await register(client, LANCELOT)
    await deliver(app)
    headers = bearer(await log_in(client, LANCELOT))
    code = {"code": mailbox.last_code()}
    path = "/me/email-verification/confirm"
    assert (await client.post(path, json=code, headers=headers)).is_success
    mailbox.messages.clear()
    mailbox.recipients.clear()
    return headers


def to(mailbox: MailServer, email: str) -> list[EmailMessage]:
    pairs = zip(mailbox.messages, mailbox.recipients, strict=True)
    return [message for message, recipient in pairs if recipient == email]


async def test_a_change_of_the_address_is_announced_to_the_former_one(
    app: FastAPI,
    client: AsyncClient,
    mailbox: MailServer,
    arthurs_token: str,
    subtests: pytest.Subtests,
) -> None:
    headers = await lancelot(app, client, mailbox)
    changed = await client.patch("/me", json={**PROOF, "email": NEW_EMAIL}, headers=headers)
    assert changed.is_success, changed.text
    await deliver(app)
    (message,) = to(mailbox, LANCELOT["email"])
    assert message["Subject"].startswith("Your e-mail address at ")
    text = message.get_content()
    for part in ("lancelot", "2026-11-23 12:00 UTC", "127.0.0.1"):
        assert part in text
    assert NEW_EMAIL not in text
    (verification,) = to(mailbox, NEW_EMAIL)
    assert "confirm" in verification["Subject"]
    with subtests.test("the former address is not in the audit log"):
        listed = await client.get("/audit", headers=bearer(arthurs_token))
        assert "user.change_email" in listed.text
        assert "lancelot@" not in listed.text


@on_sqlite
async def test_a_removal_and_a_change_by_an_administrator_are_announced(
    app: FastAPI, client: AsyncClient, mailbox: MailServer, arthurs_token: str
) -> None:
    await lancelot(app, client, mailbox)
    headers = {**bearer(arthurs_token), "Accept-Language": "de"}
    await client.patch("/users/2", json={"email": ""}, headers=headers)
    await deliver(app)
    (message,) = mailbox.messages
    assert mailbox.recipients == [LANCELOT["email"]]
    assert message["Subject"].startswith("Ihre E-Mail-Adresse bei ")
    assert "Die Administration" in message.get_content()
    assert "127.0.0.1" not in message.get_content()  # the administrator's
    for email in (NEW_EMAIL, "joyous@gard.example"):  # neither was verified
        await client.patch("/users/2", json={"email": email}, headers=bearer(arthurs_token))
    await deliver(app)
    assert [it for it in mailbox.messages[1:] if "confirm" not in it["Subject"]] == []


@on_sqlite
async def test_the_message_is_sent_although_the_account_changes_again(
    app: FastAPI, client: AsyncClient, mailbox: MailServer
) -> None:
    headers = await lancelot(app, client, mailbox)
    for email in (NEW_EMAIL, "joyous@gard.example"):
        await client.patch("/me", json={**PROOF, "email": email}, headers=headers)
    await client.post("/me/password", json={**PROOF, "new_password": "other"}, headers=headers)
    await deliver(app)
    assert len(to(mailbox, LANCELOT["email"])) == 1


@on_sqlite
async def test_a_new_password_is_announced(
    app: FastAPI, client: AsyncClient, mailbox: MailServer, hourpass: Command
) -> None:
    headers = await lancelot(app, client, mailbox)
    body = {**PROOF, "new_password": "joyous gard"}
    assert (await client.post("/me/password", json=body, headers=headers)).is_success
    await deliver(app)
    text = mailbox.messages[-1].get_content()
    assert mailbox.messages[-1]["Subject"].startswith("Your password at ")
    assert "127.0.0.1" in text
    assert "joyous" not in text
    # By a code.
    await client.post("/password-resets", json={"email": LANCELOT["email"]})
    await deliver(app)
    reset = {"code": mailbox.last_code(), "new_password": "tintagel"}
    assert (await client.post("/password-resets/confirm", json=reset)).is_success
    await deliver(app)
    assert "127.0.0.1" in mailbox.messages[-1].get_content()
    # By an administrator.
    variables = {"SMTP_URL": mailbox.url, "MAIL_FROM": "no-reply@camelot.example"}
    result = await hourpass("set-password", "lancelot", stdin="excalibur\n", **variables)
    assert result.exit_code == 0, result.output
    await deliver_queued_now(app)
    text = mailbox.messages[-1].get_content()
    assert "An administrator" in text
    assert len(mailbox.messages) == 4


async def deliver_queued_now(app: FastAPI) -> None:
    """Send what a command has queued, by the database's clock."""
    app.state.clock.now = utc_now()
    await deliver(app)


@on_sqlite
async def test_no_message_is_sent_to_an_unverified_address_or_while_too_much_mail_waits(
    app: FastAPI, client: AsyncClient, mailbox: MailServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    await register(client, ARTHUR | {"username": "uther"})
    await deliver(app)
    mailbox.messages.clear()
    headers = bearer(await log_in(client, ARTHUR | {"username": "uther"}))
    body = {"password": ARTHUR["password"], "new_password": "other"}
    assert (await client.post("/me/password", json=body, headers=headers)).is_success
    await deliver(app)
    assert mailbox.messages == []
    headers = await lancelot(app, client, mailbox)
    monkeypatch.setattr(mail, "MAX_WAITING", 0)
    changed = await client.patch("/me", json={**PROOF, "email": NEW_EMAIL}, headers=headers)
    assert changed.is_success
    await deliver(app)
    assert mailbox.messages == []
