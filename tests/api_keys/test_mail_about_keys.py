"""The owner of a key gets a mail when it is created or rotated, which never contains the key."""

from email.message import EmailMessage

import pytest
from fastapi import FastAPI
from httpx import AsyncClient

from app.mail import service as mail
from app.mail.delivery import FIRST_DELAY
from tests.support.key_calls import KeyCalls, keys_of
from tests.support.mail_server import MailServer, deliver
from tests.support.markers import on_sqlite
from tests.support.settings import Clock
from tests.support.users import LANCELOT, bearer, log_in, register

pytestmark = [pytest.mark.sends_mail, on_sqlite]


async def lancelot(app: FastAPI, client: AsyncClient, mailbox: MailServer) -> int:
    """With a verified address, and an empty mailbox."""
    user_id = await register(client, LANCELOT)
    await deliver(app)
    headers = bearer(await log_in(client, LANCELOT))
    code = {"code": mailbox.last_code()}
    assert (
        await client.post("/me/email-verification/confirm", json=code, headers=headers)
    ).is_success
    mailbox.messages.clear()
    return user_id


async def newest(app: FastAPI, mailbox: MailServer) -> tuple[EmailMessage, str]:
    await deliver(app)
    message = mailbox.messages[-1]
    return message, message.get_content()


async def test_the_owner_of_a_new_key_gets_a_mail(
    app: FastAPI,
    client: AsyncClient,
    mailbox: MailServer,
    arthurs_token: str,
    monkeypatch: pytest.MonkeyPatch,
    subtests: pytest.Subtests,
) -> None:
    user_id = await lancelot(app, client, mailbox)
    keys = await keys_of(client, LANCELOT)
    with subtests.test("it says which key was created, when and from where"):
        made = await keys.create("nightly $code")
        message, text = await newest(app, mailbox)
        assert message["Subject"].startswith("A new API key at ")
        for part in ('"nightly $code"', "lancelot", "2026-11-23 12:00 UTC", "127.0.0.1"):
            assert part in text
        assert made["key"][11:] not in text
        keys.headers["Accept-Language"] = "de"
        rotated = await keys.rotate(made["id"])
        message, text = await newest(app, mailbox)
        assert message["Subject"].startswith("Ein API-Schlüssel")
        assert "nightly $code" in text
        assert rotated["key"][11:] not in text
        await keys.change(rotated["id"], name="x")
        await keys.revoke(rotated["id"])
        administered = KeyCalls(client, arthurs_token, f"/users/{user_id}/api-keys")
        await administered.create("by Arthur")
        message, text = await newest(app, mailbox)
        assert "administrator" in message["Subject"]
        assert "by Arthur" in text
        assert "127.0.0.1" not in text  # the administrator's
        assert len(mailbox.messages) == 3
    mailbox.messages.clear()
    del keys.headers["Accept-Language"]
    with subtests.test("none goes to an unverified or a former address, nor while too many wait"):
        await keys.create()
        change = {"email": "lake@avalon.example"}
        await client.patch(f"/users/{user_id}", json=change, headers=bearer(arthurs_token))
        await keys.create("unverified")
        await deliver(app)
        assert [message["Subject"].split(" at ")[0] for message in mailbox.messages] == [
            "Your e-mail address",  # to the former one
            "Please confirm your e-mail address",
        ]
        verified = {"email_verified": True}
        await client.patch(f"/users/{user_id}", json=verified, headers=bearer(arthurs_token))
        monkeypatch.setattr(mail, "MAX_WAITING", 0)
        await keys.create("too much mail")
        await deliver(app)
        assert len(mailbox.messages) == 2


async def test_the_mail_is_sent_again_and_given_up_like_other_mail(
    app: FastAPI, client: AsyncClient, mailbox: MailServer, clock: Clock
) -> None:
    await lancelot(app, client, mailbox)
    keys = await keys_of(client, LANCELOT)
    mailbox.answers[LANCELOT["email"]] = "451 Try again later"
    await keys.create()
    await deliver(app)
    mailbox.answers.clear()
    clock.advance(FIRST_DELAY)
    await deliver(app)
    assert len(mailbox.messages) == 1
    await keys.create()
    mailbox.answers[LANCELOT["email"]] = "550 5.1.1 Unknown"
    await deliver(app)
    path = "/me/audit?limit=1"
    (entry,) = (await client.get(path, headers=keys.headers)).json()["entries"]
    assert (entry["action"], entry["details"]["mail"]) == ("mail.fail", "api_key_created")
