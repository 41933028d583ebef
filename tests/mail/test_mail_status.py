"""Administrators see whether the mail that they requested was sent, and can send it again."""

import asyncio
from datetime import timedelta
from typing import Any

import pytest
from fastapi import FastAPI
from httpx import AsyncClient, Response

from app.mail.delivery import FIRST_DELAY
from tests.support.admin_client import AdminClient
from tests.support.mail_server import MailServer, code_in, deliver
from tests.support.markers import on_postgresql, on_sqlite
from tests.support.settings import Clock
from tests.support.users import GALAHAD, LANCELOT, assert_problem, bearer, log_in, register

pytestmark = pytest.mark.sends_mail

QUEUED = {"state": "queued", "reply_code": None, "enhanced_code": None}
SENT = {"state": "sent", "reply_code": None, "enhanced_code": None}
REFUSED = {"state": "failed", "reply_code": 550, "enhanced_code": "5.1.1"}
EMAIL = GALAHAD["email"]


async def get_invitation(arthur: AdminClient) -> dict[str, Any]:
    """The only one."""
    (invitation,) = (await arthur.do("GET", "/invitations"))["invitations"]
    return dict(invitation)


@pytest.fixture
async def lancelot(client: AsyncClient, app: FastAPI, mailbox: MailServer) -> int:
    """Registered. The message about that is delivered and removed."""
    user_id = await register(client, LANCELOT)
    await deliver(app)
    mailbox.messages.clear()
    return user_id


@on_sqlite
async def test_an_invitation_shows_the_state_of_its_mail(
    app: FastAPI, arthur: AdminClient, mailbox: MailServer, subtests: pytest.Subtests
) -> None:
    created = await arthur.do("POST", "/invitations", {"email": EMAIL})
    assert created["mail"] == QUEUED
    mailbox.answers[EMAIL] = f"450 4.2.2 {EMAIL} is full"
    await deliver(app)
    state = {"state": "queued", "reply_code": 450, "enhanced_code": "4.2.2"}
    assert (await get_invitation(arthur))["mail"] == state
    await arthur.do("POST", f"/invitations/{created['id']}/resend")
    mailbox.answers.clear()
    await deliver(app)
    assert (await get_invitation(arthur))["mail"] == SENT
    with subtests.test("one that is handed out has no mail"):
        await arthur.do("DELETE", f"/invitations/{created['id']}")
        created = await arthur.do("POST", "/invitations", {"scopes": ["predict"]})
        assert created["mail"] is None
        assert (await get_invitation(arthur))["mail"] is None
        again = await arthur.call("POST", f"/invitations/{created['id']}/resend")
        assert_problem(again, 409, "not_mailed")


@on_sqlite
async def test_a_refused_invitation_is_sent_again(
    app: FastAPI, client: AsyncClient, arthur: AdminClient, mailbox: MailServer
) -> None:
    created = await arthur.do("POST", "/invitations", {"email": EMAIL})
    mailbox.answers[EMAIL] = "550 5.1.1 not yet"
    await deliver(app)
    assert (await get_invitation(arthur))["mail"] == REFUSED
    mailbox.answers.clear()
    path = f"/invitations/{created['id']}/resend"
    assert await arthur.do("POST", path) == {**await get_invitation(arthur), "mail": QUEUED}
    await deliver(app)
    assert (await get_invitation(arthur))["mail"] == SENT
    body = {**GALAHAD, "invitation": code_in(mailbox.messages[0])}
    assert (await client.post("/register-user", json=body)).status_code == 201
    assert_problem(await arthur.call("POST", path), 404, "invitation_not_found")


async def test_the_code_of_every_mail_is_valid_until_one_is_used(
    app: FastAPI, client: AsyncClient, arthur: AdminClient, mailbox: MailServer
) -> None:
    created = await arthur.do("POST", "/invitations", {"email": EMAIL})
    for _ in range(3):
        await deliver(app)
        await arthur.do("POST", f"/invitations/{created['id']}/resend")
    codes = [code_in(message) for message in mailbox.messages]
    assert len(set(codes)) == 3
    answers = [
        await client.post("/register-user", json={**GALAHAD, "username": code, "invitation": code})
        for code in (codes[1], codes[0], codes[2])
    ]
    assert [answer.status_code for answer in answers] == [201, 403, 403]
    await deliver(app)
    assert len(mailbox.messages) == 3  # the last one is not sent


async def test_mail_that_waits_is_sent_at_once_and_only_once(
    app: FastAPI, arthur: AdminClient, mailbox: MailServer, clock: Clock
) -> None:
    created = await arthur.do("POST", "/invitations", {"email": EMAIL})
    mailbox.answers[EMAIL] = "451 later"
    await deliver(app)
    mailbox.answers.clear()
    for _ in range(2):
        await arthur.do("POST", f"/invitations/{created['id']}/resend")
    await deliver(app)
    clock.advance(FIRST_DELAY)
    await deliver(app)
    assert mailbox.recipients == [EMAIL]


@on_sqlite
async def test_a_forced_reset_shows_the_state_of_its_mail_and_is_sent_again(
    app: FastAPI, client: AsyncClient, arthur: AdminClient, mailbox: MailServer, lancelot: int
) -> None:
    path = f"/users/{lancelot}/password-reset"
    # A reset that the user requested is not a forced one.
    await client.post("/password-resets", json={"email": LANCELOT["email"]})
    await deliver(app)
    assert_problem(await arthur.call("GET", path), 404, "password_reset_not_found")
    mailbox.messages.clear()
    forced = await arthur.do("POST", path, {"by_mail": True})
    assert forced["mail"] == QUEUED
    mailbox.answers[LANCELOT["email"]] = "550 5.1.1 not yet"
    await deliver(app)
    reset = await arthur.do("GET", path)
    assert reset == {
        "user_id": lancelot,
        "created_at": "2026-11-23T12:00:00Z",
        "expires_at": forced["expires_at"],
        "mail": REFUSED,
    }
    mailbox.answers.clear()
    assert await arthur.do("POST", f"{path}/resend") == {**reset, "mail": QUEUED}
    await deliver(app)
    assert (await arthur.do("GET", path))["mail"] == SENT
    body = {"code": code_in(mailbox.messages[0]), "new_password": "guinevere in the garden"}
    assert (await client.post("/password-resets/confirm", json=body)).status_code == 200
    for method, end in (("GET", ""), ("POST", "/resend")):
        refused = await arthur.call(method, path + end)
        assert_problem(refused, 404, "password_reset_not_found")


@on_sqlite
async def test_a_forced_reset_that_is_handed_out_has_no_mail(
    arthur: AdminClient, lancelot: int, clock: Clock
) -> None:
    path = f"/users/{lancelot}/password-reset"
    assert (await arthur.do("POST", path))["mail"] is None
    assert (await arthur.do("GET", path))["mail"] is None
    assert_problem(await arthur.call("POST", f"{path}/resend"), 409, "not_mailed")
    clock.advance(timedelta(minutes=59))
    assert (await arthur.call("GET", path)).status_code == 200


@on_sqlite
async def test_an_administrator_chooses_the_language_of_the_mail(
    app: FastAPI, arthur: AdminClient, mailbox: MailServer, lancelot: int, subtests: pytest.Subtests
) -> None:
    path = f"/users/{lancelot}/password-reset"
    for language, used in {"de-AT": "de", "xx": "en"}.items():
        with subtests.test(language):
            mailbox.messages.clear()
            invited = await arthur.do(
                "POST", "/invitations", {"email": EMAIL, "language": language}
            )
            await arthur.do("POST", path, {"by_mail": True, "language": language})
            await deliver(app)
            await arthur.do("POST", f"/invitations/{invited['id']}/resend", {"language": language})
            await arthur.do("POST", f"{path}/resend", {"language": language})
            await deliver(app)
            languages = [message["Content-Language"] for message in mailbox.messages]
            assert languages == [used] * 4


@on_sqlite
async def test_invalid_languages_and_other_users_are_refused(
    client: AsyncClient, arthur: AdminClient, lancelot: int, subtests: pytest.Subtests
) -> None:
    invited = await arthur.do("POST", "/invitations", {"email": EMAIL})
    for path in (
        f"/invitations/{invited['id']}/resend",
        "/invitations",
        f"/users/{lancelot}/password-reset",
        f"/users/{lancelot}/password-reset/resend",
    ):
        for language in ("de_AT", "de, en", "de\r\n", "d" * 36, "../en", 5):
            with subtests.test(f"the language is invalid: {path} {language!r}"):
                refused = await arthur.call("POST", path, {"language": language})
                assert_problem(refused, 422, "invalid_request")
    headers = bearer(await log_in(client, LANCELOT))
    for method, path in [
        ("POST", f"/invitations/{invited['id']}/resend"),
        ("GET", f"/users/{lancelot}/password-reset"),
        ("POST", f"/users/{lancelot}/password-reset/resend"),
    ]:
        with subtests.test(f"not by an administrator: {method} {path}"):
            refused = await client.request(method, path, headers=headers)
            assert_problem(refused, 403, "insufficient_scope")
            assert (await client.request(method, path)).status_code == 401


@on_postgresql
async def test_sending_again_and_revoking_at_the_same_time(
    app: FastAPI, arthur: AdminClient, lancelot: int
) -> None:
    """Both lock the code before the mail. Otherwise there could be a deadlock."""
    path = f"/users/{lancelot}/password-reset"
    for _ in range(2):
        invited = await arthur.do("POST", "/invitations", {"email": EMAIL})
        await arthur.do("POST", path, {"by_mail": True})
        invitation = f"/invitations/{invited['id']}"
        answers = await asyncio.gather(
            deliver(app),
            arthur.call("POST", f"{invitation}/resend"),
            arthur.call("DELETE", invitation),
            arthur.call("POST", f"{path}/resend"),
            arthur.call("POST", path, {"by_mail": True}),
            arthur.call("PUT", f"/toggle-user-permission/{lancelot}/0"),
            deliver(app),
        )
        found = {answer.status_code for answer in answers if isinstance(answer, Response)}
        assert found <= {200, 404}, found
        await arthur.do("PUT", f"/toggle-user-permission/{lancelot}/1")
    assert (await arthur.do("GET", "/invitations"))["invitations"] == []
