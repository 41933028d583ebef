"""Whatever administrators do, and users with their own account, is in the audit log by its name."""

from typing import Any

import pytest
from fastapi import FastAPI
from httpx import AsyncClient

from tests.support.authenticator import enroll
from tests.support.mail_server import MailServer, deliver
from tests.support.settings import Clock
from tests.support.users import (
    ARTHUR,
    GALAHAD,
    LANCELOT,
    bearer,
    log_in,
    open_session,
    register,
    said_in,
)

pytestmark = pytest.mark.sends_mail

Call = tuple[str, str, dict[str, Any]]

PROOF = {"password": LANCELOT["password"]}
DISABLE: Call = ("PUT", "/toggle-user-permission/2/0", {})
VOUCH: Call = ("PATCH", "/users/2", {"email_verified": True})
REMOVE: Call = ("DELETE", "/remove-user/2", {})
NEW_KEY: Call = ("POST", "/users/2/api-keys", {"name": "batch"})
KEY = "/users/2/api-keys/{id}"
SUSPEND: Call = ("POST", f"{KEY}/suspend", {})
OWN_KEY: Call = ("POST", "/me/api-keys", {"name": "batch"})
INVITE: Call = ("POST", "/invitations", {})
INVITE_BY_MAIL: Call = ("POST", "/invitations", {"email": GALAHAD["email"]})
FORCE_BY_MAIL: Call = ("POST", "/users/2/password-reset", {"by_mail": True})
GROUP: Call = ("POST", "/groups", {"name": "knights", "scopes": ["a"]})
NARROW: Call = ("PATCH", "/groups/knights", {"scopes": []})
JOIN: Call = ("PUT", "/groups/knights/members/2", {})
LEAVE: Call = ("DELETE", "/groups/knights/members/2", {})
ASK: Call = ("POST", "/password-resets", {"email": LANCELOT["email"]})


async def make(client: AsyncClient, token: str, calls: list[Call], **known: str) -> None:
    for method, path, body in calls:
        sent = {name: known.get(str(value), value) for name, value in body.items()}
        answer = await client.request(
            method, path.format(**known), json=sent, headers=bearer(token) if token else {}
        )
        assert answer.is_success, answer.text
        known = {name: str(value) for name, value in answer.json().items()} | known


async def newest(client: AsyncClient, action: str) -> tuple[int | None, int | None, bool]:
    """Who did it, to whom, and whether it succeeded."""
    headers = bearer(await log_in(client, ARTHUR))
    query: dict[str, Any] = {"action": action, "limit": 1}
    answer = await client.get("/audit", params=query, headers=headers)
    (entry,) = answer.json()["entries"]
    return entry["actor_id"], entry["subject_id"], entry["succeeded"]


@pytest.mark.parametrize(
    ("action", "subject", "calls"),
    [
        ("user.register", 3, [("POST", "/users", GALAHAD)]),
        ("user.grant", 2, [("PATCH", "/users/2", {"scopes": ["predict"]})]),
        ("user.change_email", 2, [("PATCH", "/users/2", {"email": "lake@avalon.example"})]),
        ("user.verify_email", 2, [VOUCH]),
        ("user.unverify_email", 2, [VOUCH, ("PATCH", "/users/2", {"email_verified": False})]),
        ("user.disable", 2, [DISABLE]),
        ("user.enable", 2, [DISABLE, ("PATCH", "/users/2", {"is_enabled": True})]),
        ("user.revoke_tokens", 2, [("POST", "/users/2/revoke-tokens", {})]),
        ("user.force_reset", 2, [("POST", "/users/2/password-reset", {})]),
        ("user.resend_reset", 2, [FORCE_BY_MAIL, ("POST", "/users/2/password-reset/resend", {})]),
        ("session.end", 2, [("DELETE", "/users/2/sessions/{sid}", {})]),
        ("second_factor.reset", 2, [("DELETE", "/users/2/second-factor", {})]),
        ("api_key.create", 2, [NEW_KEY]),
        ("api_key.update", 2, [NEW_KEY, ("PATCH", KEY, {"name": "hourly"})]),
        ("api_key.rotate", 2, [NEW_KEY, ("POST", f"{KEY}/rotate", {})]),
        ("api_key.suspend", 2, [NEW_KEY, SUSPEND]),
        ("api_key.resume", 2, [NEW_KEY, SUSPEND, ("POST", f"{KEY}/resume", {})]),
        ("api_key.revoke", 2, [NEW_KEY, ("DELETE", KEY, {})]),
        ("user.remove", 2, [REMOVE]),
        ("user.erase", 2, [REMOVE, ("DELETE", "/users/2/personal-data", {})]),
        ("group.create", None, [GROUP]),
        ("group.update", None, [GROUP, NARROW]),
        ("group.delete", None, [GROUP, ("DELETE", "/groups/knights", {})]),
        ("group.add_member", 2, [GROUP, JOIN]),
        ("group.remove_member", 2, [GROUP, JOIN, LEAVE]),
        ("invitation.create", None, [INVITE]),
        ("invitation.resend", None, [INVITE_BY_MAIL, ("POST", "/invitations/{id}/resend", {})]),
        ("invitation.revoke", None, [INVITE, ("DELETE", "/invitations/{id}", {})]),
    ],
)
async def test_actions_of_an_administrator(  # noqa: PLR0917 - fixtures
    client: AsyncClient,
    clock: Clock,
    arthurs_token: str,
    action: str,
    subject: int | None,
    calls: list[Call],
) -> None:
    await register(client, LANCELOT)
    if action.startswith("second_factor"):
        await enroll(client, LANCELOT, clock)
        sid = ""
    else:
        sid = said_in((await open_session(client, LANCELOT))["token"])["sid"]
    await make(client, arthurs_token, calls, sid=sid)
    assert await newest(client, action) == (1, subject, True)


@pytest.mark.parametrize(
    ("action", "calls"),
    [
        ("session.open", []),
        ("user.change_password", [("POST", "/me/password", {**PROOF, "new_password": "new"})]),
        ("user.change_email", [("PATCH", "/me", {**PROOF, "email": "lake@avalon.example"})]),
        ("user.verify_email", [("POST", "/me/email-verification/confirm", {"code": "code"})]),
        ("user.revoke_tokens", [("POST", "/me/logout-everywhere", {})]),
        ("session.end", [("DELETE", "/me/sessions/{sid}", {})]),
        ("second_factor.enrol", [("POST", "/me/second-factor", PROOF)]),
        ("api_key.create", [OWN_KEY]),
        ("api_key.revoke", [OWN_KEY, ("DELETE", "/me/api-keys/{id}", {})]),
        ("user.remove", [("DELETE", "/me", PROOF)]),
    ],
)
async def test_actions_of_users_on_their_own_account(
    app: FastAPI, client: AsyncClient, mailbox: MailServer, action: str, calls: list[Call]
) -> None:
    await register(client, LANCELOT)
    await deliver(app)
    token = (await open_session(client, LANCELOT))["token"]
    await make(client, token, calls, sid=said_in(token)["sid"], code=mailbox.last_code())
    assert await newest(client, action) == (2, 2, True)


async def test_actions_of_a_user_without_the_password(
    app: FastAPI, client: AsyncClient, mailbox: MailServer
) -> None:
    await register(client, LANCELOT)
    await make(client, "", [ASK])
    await deliver(app)
    assert await newest(client, "password_reset.request") == (None, 2, True)
    reset = {"code": mailbox.last_code(), "new_password": "new"}
    await make(client, "", [("POST", "/password-resets/confirm", reset)])
    assert await newest(client, "user.reset_password") == (2, 2, True)


async def test_actions_without_a_user(client: AsyncClient) -> None:
    await register(client, LANCELOT)
    assert await newest(client, "user.register") == (None, 2, True)
    await client.post("/revoke", data={"token": await log_in(client, LANCELOT)})
    assert await newest(client, "token.revoke") == (None, 2, True)


async def test_mail_that_was_refused(
    app: FastAPI, client: AsyncClient, mailbox: MailServer
) -> None:
    mailbox.answers[LANCELOT["email"]] = f"550 5.1.1 {LANCELOT['email']} is not here"
    await register(client, LANCELOT)
    await deliver(app)
    assert await newest(client, "mail.fail") == (None, 2, False)
    headers = bearer(await log_in(client, LANCELOT))
    entry, *_ = (await client.get("/me/audit?limit=2", headers=headers)).json()["entries"][1:]
    assert entry["details"] == {
        "mail": "verify",
        "step": "rcpt",
        "reply_code": "550",
        "enhanced_code": "5.1.1",
        "error": "SMTPRecipientRefused",
    }
    assert entry["address"] == "127.0.0.1"  # of the registration
