"""Each action of administrators, and of users on their own account, adds an entry with its name."""

from typing import Any

import pytest
from fastapi import FastAPI
from httpx import AsyncClient

from tests.support.authenticator import enroll
from tests.support.mail_server import MailServer, deliver
from tests.support.markers import on_sqlite
from tests.support.settings import Clock
from tests.support.users import (
    GALAHAD,
    LANCELOT,
    Person,
    bearer,
    claims_of,
    log_in,
    open_session,
    register,
)

pytestmark = [pytest.mark.sends_mail, on_sqlite]

Call = tuple[str, str, dict[str, Any]]

PROOF = {"password": LANCELOT["password"]}
NEW_EMAIL = "lake@avalon.example"
USER = "/users/{user}"
DISABLE: Call = ("PUT", "/toggle-user-permission/{user}/0", {})
VERIFY: Call = ("PATCH", USER, {"email_verified": True})
REMOVE: Call = ("DELETE", "/remove-user/{user}", {})
NEW_KEY: Call = ("POST", f"{USER}/api-keys", {"name": "batch"})
KEY = f"{USER}/api-keys/{{id}}"
SUSPEND: Call = ("POST", f"{KEY}/suspend", {})
OWN_KEY: Call = ("POST", "/me/api-keys", {"name": "batch"})
INVITE: Call = ("POST", "/invitations", {})
INVITE_BY_MAIL: Call = ("POST", "/invitations", {"email": GALAHAD["email"]})
FORCE_BY_MAIL: Call = ("POST", f"{USER}/password-reset", {"by_mail": True})
GROUP: Call = ("POST", "/groups", {"name": "{username}", "scopes": ["a"]})
NARROW: Call = ("PATCH", "/groups/{username}", {"scopes": []})
DELETE_GROUP: Call = ("DELETE", "/groups/{username}", {})
JOIN: Call = ("PUT", "/groups/{username}/members/{user}", {})
LEAVE: Call = ("DELETE", "/groups/{username}/members/{user}", {})

# Each action, and the calls that lead to it. Each action has a user of its own.
OF_ADMINISTRATORS: dict[str, list[Call]] = {
    "user.grant": [("PATCH", USER, {"scopes": ["predict"]})],
    "user.change_email": [("PATCH", USER, {"email": NEW_EMAIL})],
    "user.verify_email": [VERIFY],
    "user.unverify_email": [VERIFY, ("PATCH", USER, {"email_verified": False})],
    "user.disable": [DISABLE],
    "user.enable": [DISABLE, ("PATCH", USER, {"is_enabled": True})],
    "user.revoke_tokens": [("POST", f"{USER}/revoke-tokens", {})],
    "user.force_reset": [("POST", f"{USER}/password-reset", {})],
    "user.resend_reset": [FORCE_BY_MAIL, ("POST", f"{USER}/password-reset/resend", {})],
    "session.end": [("DELETE", f"{USER}/sessions/{{sid}}", {})],
    "second_factor.reset": [("DELETE", f"{USER}/second-factor", {})],
    "api_key.create": [NEW_KEY],
    "api_key.update": [NEW_KEY, ("PATCH", KEY, {"name": "hourly"})],
    "api_key.rotate": [NEW_KEY, ("POST", f"{KEY}/rotate", {})],
    "api_key.suspend": [NEW_KEY, SUSPEND],
    "api_key.resume": [NEW_KEY, SUSPEND, ("POST", f"{KEY}/resume", {})],
    "api_key.revoke": [NEW_KEY, ("DELETE", KEY, {})],
    "user.remove": [REMOVE],
    "user.erase": [REMOVE, ("DELETE", f"{USER}/personal-data", {})],
    "group.add_member": [GROUP, JOIN],
    "group.remove_member": [GROUP, JOIN, LEAVE],
}
WITHOUT_A_SUBJECT: dict[str, list[Call]] = {
    "group.create": [GROUP],
    "group.update": [GROUP, NARROW],
    "group.delete": [GROUP, DELETE_GROUP],
    "invitation.create": [INVITE],
    "invitation.resend": [INVITE_BY_MAIL, ("POST", "/invitations/{id}/resend", {})],
    "invitation.revoke": [INVITE, ("DELETE", "/invitations/{id}", {})],
}
OF_USERS: dict[str, list[Call]] = {
    "session.open": [],
    "user.change_password": [("POST", "/me/password", {**PROOF, "new_password": "new"})],
    "user.change_email": [("PATCH", "/me", {**PROOF, "email": NEW_EMAIL})],
    "user.verify_email": [("POST", "/me/email-verification/confirm", {"code": "{code}"})],
    "user.revoke_tokens": [("POST", "/me/logout-everywhere", {})],
    "session.end": [("DELETE", "/me/sessions/{sid}", {})],
    "second_factor.enrol": [("POST", "/me/second-factor", PROOF)],
    "api_key.create": [OWN_KEY],
    "api_key.revoke": [OWN_KEY, ("DELETE", "/me/api-keys/{id}", {})],
    "user.remove": [("DELETE", "/me", PROOF)],
}


def person_for(action: str) -> Person:
    name = action.replace(".", "-")
    return {**LANCELOT, "username": name, "email": f"{name}@camelot.example"}


async def make(client: AsyncClient, token: str, calls: list[Call], **known: str) -> None:
    """`{name}` in a path or a body is a known value, or a member of an earlier response."""
    for method, path, body in calls:
        sent = {
            name: value.format(**known) if isinstance(value, str) else value
            for name, value in body.items()
        }
        headers = bearer(token) if token else {}
        response = await client.request(method, path.format(**known), json=sent, headers=headers)
        assert response.is_success, response.text
        known = {name: str(value) for name, value in response.json().items()} | known


class Log:
    """The audit log, as Arthur reads it."""

    def __init__(self, client: AsyncClient, token: str) -> None:
        self._client, self._headers = client, bearer(token)
        self._last_seen = 0

    async def added(self) -> list[dict[str, Any]]:
        """The entries since the last call, at most 20, the newest first."""
        response = await self._client.get("/audit?limit=20", headers=self._headers)
        entries: list[dict[str, Any]] = response.json()["entries"]
        added = [entry for entry in entries if entry["id"] > self._last_seen]
        self._last_seen = entries[0]["id"]
        return added

    async def added_for(self, action: str) -> list[tuple[int | None, int | None, bool]]:
        """Of those, each one's actor and subject, and whether the action succeeded."""
        return [
            (entry["actor_id"], entry["subject_id"], entry["succeeded"])
            for entry in await self.added()
            if entry["action"] == action
        ]


@pytest.fixture
def log(client: AsyncClient, arthurs_token: str) -> Log:
    return Log(client, arthurs_token)


async def test_actions_of_an_administrator(
    client: AsyncClient, clock: Clock, arthurs_token: str, log: Log, subtests: pytest.Subtests
) -> None:
    for action, calls in (OF_ADMINISTRATORS | WITHOUT_A_SUBJECT).items():
        with subtests.test(action):
            person = person_for(action)
            subject = None
            known = {"username": person["username"]}
            if action in OF_ADMINISTRATORS:
                subject = await register(client, person)
                known["user"] = str(subject)
            if action == "second_factor.reset":
                await enroll(client, person, clock)
            if action == "session.end":
                session = await open_session(client, person)
                known["sid"] = claims_of(session["token"])["sid"]
            await make(client, arthurs_token, calls, **known)
            assert await log.added_for(action) == [(1, subject, True)]


async def test_an_administrator_creates_a_user(
    client: AsyncClient, arthurs_token: str, log: Log
) -> None:
    await make(client, arthurs_token, [("POST", "/users", GALAHAD)])
    assert (await log.added_for("user.register"))[0] == (1, 2, True)


async def test_actions_of_users_on_their_own_account(
    app: FastAPI,
    client: AsyncClient,
    mailbox: MailServer,
    log: Log,
    subtests: pytest.Subtests,
) -> None:
    for action, calls in OF_USERS.items():
        with subtests.test(action):
            person = person_for(action)
            user_id = await register(client, person)
            token = (await open_session(client, person))["token"]
            known = {"sid": claims_of(token)["sid"]}
            if action == "user.verify_email":
                await deliver(app)
                known["code"] = mailbox.last_code()
            await make(client, token, calls, **known)
            assert await log.added_for(action) == [(user_id, user_id, True)]


async def test_actions_of_a_user_without_the_password(
    app: FastAPI, client: AsyncClient, mailbox: MailServer, log: Log
) -> None:
    await register(client, LANCELOT)
    await make(client, "", [("POST", "/password-resets", {"email": LANCELOT["email"]})])
    await deliver(app)
    assert await log.added_for("password_reset.request") == [(None, 2, True)]
    reset = {"code": mailbox.last_code(), "new_password": "new"}
    await make(client, "", [("POST", "/password-resets/confirm", reset)])
    assert await log.added_for("user.reset_password") == [(2, 2, True)]


async def test_actions_without_a_user(client: AsyncClient, log: Log) -> None:
    await log.added()
    await register(client, LANCELOT)
    assert await log.added_for("user.register") == [(None, 2, True)]
    await client.post("/revoke", data={"token": await log_in(client, LANCELOT)})
    assert await log.added_for("token.revoke") == [(None, 2, True)]


async def test_mail_that_the_server_refused(
    app: FastAPI, client: AsyncClient, mailbox: MailServer, log: Log
) -> None:
    mailbox.answers[LANCELOT["email"]] = f"550 5.1.1 {LANCELOT['email']} is not here"
    await register(client, LANCELOT)
    await deliver(app)
    assert await log.added_for("mail.fail") == [(None, 2, False)]
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
