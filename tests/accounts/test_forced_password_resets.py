"""An administrator invalidates a password. Only a code, mailed or handed out, sets a new one."""

from datetime import timedelta

import pytest
from fastapi import FastAPI
from httpx import AsyncClient

from app.context import RequestContext
from app.mail import worker
from app.main import create_app
from app.security.rate_limits.limits import Rate
from app.settings import Settings
from app.users.service import Users
from tests.support.apps import client_of
from tests.support.mail_server import MailServer, code_in, deliver
from tests.support.markers import on_sqlite
from tests.support.password_resets import WITH_NEW_PASSWORD, ask, confirm, lancelot
from tests.support.settings import Clock
from tests.support.users import (
    ARTHUR,
    LANCELOT,
    assert_problem,
    bearer,
    log_in,
    register,
    token_is_valid,
)

__all__ = ["lancelot"]

pytestmark = pytest.mark.sends_mail


@on_sqlite
async def test_without_a_mail_server_an_administrator_hands_the_code_out(
    settings: Settings, clock: Clock
) -> None:
    app = create_app(settings.model_copy(update={"smtp_url": None}), clock, clock)
    async with app.router.lifespan_context(app), client_of(app) as client:
        lancelot = await register(client, LANCELOT)
        token = await log_in(client, LANCELOT)
        for email in (LANCELOT["email"], "nobody@camelot.example"):
            assert_problem(await ask(client, email), 403, "mail_unavailable")
        arthurs = bearer(await log_in(client, ARTHUR))
        path = f"/users/{lancelot}/password-reset"
        mailed = await client.post(path, json={"by_mail": True}, headers=arthurs)
        assert_problem(mailed, 403, "mail_unavailable")
        assert await token_is_valid(client, token)
        forced = await client.post(path, headers=arthurs)
        assert forced.status_code == 200
        assert forced.json()["user_id"] == lancelot
        assert forced.json()["expires_at"] == "2026-11-24T12:00:00Z"
        assert not await token_is_valid(client, token)
        assert (await client.post("/token", json=LANCELOT)).status_code == 401  # invalid at once
        assert (await confirm(client, forced.json()["code"])).status_code == 200
        profile = await client.get("/me", headers=bearer(await log_in(client, WITH_NEW_PASSWORD)))
        assert profile.json()["email_verified"] is False  # nothing was sent to the mailbox


@on_sqlite
async def test_an_administrator_has_the_code_mailed(
    app: FastAPI, client: AsyncClient, mailbox: MailServer, lancelot: int, arthurs_token: str
) -> None:
    path, headers = f"/users/{lancelot}/password-reset", bearer(arthurs_token)
    forced = await client.post(path, json={"by_mail": True}, headers=headers)
    assert forced.json()["code"] is None
    await deliver(app)
    (message,) = mailbox.messages
    assert message["Subject"].startswith("Please set a new password")
    assert (await confirm(client, code_in(message))).status_code == 200
    assert await log_in(client, WITH_NEW_PASSWORD)


@on_sqlite
async def test_a_late_mail_does_not_extend_the_lifetime_of_a_code(
    app: FastAPI, client: AsyncClient, mailbox: MailServer, clock: Clock, lancelot: int
) -> None:
    mailbox.answers[LANCELOT["email"]] = "451 Try again later"
    path, headers = f"/users/{lancelot}/password-reset", bearer(await log_in(client, ARTHUR))
    forced = await client.post(path, json={"by_mail": True}, headers=headers)
    assert forced.json()["expires_at"] == "2026-11-24T12:00:00Z"
    await deliver(app)
    mailbox.answers.clear()
    clock.advance(timedelta(hours=23, minutes=59))
    await deliver(app)
    assert "expires on 2026-11-24 12:00 UTC" in mailbox.messages[0].get_content()
    clock.advance(timedelta(minutes=1))
    assert_problem(await confirm(client, mailbox.last_code()), 403, "invalid_code")


@on_sqlite
async def test_no_other_user_can_prevent_the_mail_of_an_administrator(
    app: FastAPI,
    client: AsyncClient,
    mailbox: MailServer,
    arthurs_token: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(worker, "MAILBOX_FROM_ELSEWHERE", Rate(1, timedelta(days=1)))
    lancelot = await register(client, LANCELOT)
    await ask(client)
    await deliver(app)
    assert len(mailbox.messages) == 1  # to verify the address
    mailbox.messages.clear()
    headers = bearer(arthurs_token)
    path = f"/users/{lancelot}/password-reset"
    for _ in range(2):  # nor are administrators themselves limited
        await client.post(path, json={"by_mail": True}, headers=headers)
        await client.post("/invitations", json={"email": LANCELOT["email"]}, headers=headers)
        await deliver(app)
    subjects = [message["Subject"].partition(" ")[0] for message in mailbox.messages]
    assert subjects == ["Please", "An"] * 2


@on_sqlite
async def test_only_administrators_force_a_reset_and_only_of_existing_users(
    client: AsyncClient, lancelot: int, arthurs_token: str
) -> None:
    path, headers = f"/users/{lancelot}/password-reset", bearer(arthurs_token)
    assert (await client.post(path)).status_code == 401
    own = await client.post(path, headers=bearer(await log_in(client, LANCELOT)))
    assert_problem(own, 403, "insufficient_scope")
    nobody = await client.post("/users/4711/password-reset", headers=headers)
    assert_problem(nobody, 404, "user_not_found")
    await client.patch(f"/users/{lancelot}", json={"email": ""}, headers=headers)
    without_address = await client.post(path, json={"by_mail": True}, headers=headers)
    body = assert_problem(without_address, 422, "invalid_request")
    assert body["fields"][0]["field"] == "by_mail"
    assert await log_in(client, LANCELOT)  # the refused request changed nothing


async def test_an_administrator_who_can_log_in_remains(
    client: AsyncClient,
    users: Users,
    context: RequestContext,
    lancelot: int,
    arthurs_token: str,
) -> None:
    headers, path = bearer(arthurs_token), "/users/{}/password-reset"
    for by_mail in (False, True):
        own = await client.post(path.format(1), json={"by_mail": by_mail}, headers=headers)
        assert_problem(own, 409, "last_admin")
    assert await log_in(client, ARTHUR)
    await users.set_scopes(context, lancelot, {"admin"})
    forced = await client.post(path.format(lancelot), headers=headers)
    for change in ({"is_enabled": False}, {"is_admin": False}):  # the other one lacks a password
        refused = await client.patch("/users/1", json=change, headers=headers)
        assert_problem(refused, 409, "last_admin")
    assert (await confirm(client, forced.json()["code"])).status_code == 200
    assert (await client.post(path.format(1), headers=headers)).status_code == 200
