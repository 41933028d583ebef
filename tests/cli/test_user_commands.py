"""`hourpass users` and `hourpass sessions`: what administrators do over HTTP, beside a running
service, which notices it at once."""

import json
import re
from typing import Any

import pytest
from fastapi import FastAPI
from httpx import AsyncClient

from app.cli.output import as_text
from tests.support.commands import Command, assert_refused, hourpass
from tests.support.mail_server import MailServer, deliver
from tests.support.markers import on_sqlite
from tests.support.settings import Clock, utc_now
from tests.support.users import (
    ARTHUR,
    GALAHAD,
    LANCELOT,
    assert_problem,
    bearer,
    becomes_invalid,
    claims_of,
    log_in,
    open_session,
    refresh,
    register,
    token_is_valid,
)

__all__ = ["hourpass"]

NEW_PASSWORD = "achieved the grail"


async def records(hourpass: Command, *arguments: str) -> list[dict[str, Any]]:
    result = await hourpass(*arguments, "--json")
    assert result.exit_code == 0, result.output
    return [json.loads(line) for line in result.stdout.splitlines()]


@on_sqlite
async def test_a_created_user_has_the_scopes_and_is_listed_as_over_http(
    hourpass: Command, client: AsyncClient, arthurs_token: str
) -> None:
    options = ("--email", GALAHAD["email"], "--scope", "train", "--scope", "predict:*")
    made = await hourpass("users", "create", "galahad", *options, stdin=f"{GALAHAD['password']}\n")
    assert (made.exit_code, made.stdout) == (0, "Created user galahad with id 2.\n")
    assert await log_in(client, GALAHAD)
    over_http = (await client.get("/users", headers=bearer(arthurs_token))).json()["users"]
    assert await records(hourpass, "users", "list") == over_http
    table = (await hourpass("users", "list")).stdout.splitlines()
    assert table[0].split() == ["ID", "USERNAME", "KIND", "STATE", "SCOPES", "GROUPS", "EMAIL"]
    row = ["2", "galahad", "person", "enabled", "predict:*", "train", GALAHAD["email"]]
    assert table[2].split() == row
    assert all(line == line.rstrip() for line in table)
    (shown,) = await records(hourpass, "users", "show", "GALAHAD")
    assert shown.items() >= over_http[1].items()
    assert (shown["has_second_factor"], shown["sessions"]) == (False, 0)
    assert shown["password_reset"] is None


@on_sqlite
async def test_empty_members_of_a_user_are_not_shown(
    hourpass: Command, client: AsyncClient
) -> None:
    await register(client, LANCELOT)
    assert (await hourpass("users", "reset-password", "lancelot", "--yes")).exit_code == 0
    shown = dict(
        re.split("  +", line)
        for line in (await hourpass("users", "show", "lancelot")).stdout.splitlines()
    )
    assert shown["username"] == "lancelot"
    assert shown["is enabled"] == "yes"
    assert shown["created at"] == "2026-11-23T12:00:00Z"
    assert shown["password reset"].startswith("created_at=2")
    assert {"scopes", "groups"} & set(shown) == set()


@on_sqlite
async def test_the_filters_of_the_list_are_those_of_the_api(
    hourpass: Command, client: AsyncClient
) -> None:
    await register(client, LANCELOT)
    await register(client, GALAHAD)
    assert (await hourpass("users", "disable", "galahad")).exit_code == 0
    assert (await hourpass("service-accounts", "create", "svc-batch")).exit_code == 0
    for options, names in (
        (("--search", "LANCE"), ["lancelot"]),
        (("--search", GALAHAD["email"]), ["galahad"]),
        (("--disabled",), ["galahad"]),
        (("--admin",), ["arthur"]),
        (("--no-admin", "--enabled"), ["lancelot", "svc-batch"]),
        (("--kind", "service"), ["svc-batch"]),
    ):
        found = await records(hourpass, "users", "list", *options)
        assert [user["username"] for user in found] == names, options
    empty = await hourpass("users", "list", "--search", "")
    assert (empty.exit_code, "--search" in empty.output) == (2, True)


@on_sqlite
async def test_a_long_list_is_complete(
    hourpass: Command, client: AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.cli.users.PAGE_SIZE", 2)
    names = ["arthur", "lancelot"]
    await register(client, LANCELOT)
    for number in range(3):
        await hourpass("service-accounts", "create", f"svc-{number}")
        names.append(f"svc-{number}")
    found = await records(hourpass, "users", "list")
    assert [user["username"] for user in found] == names


@on_sqlite
async def test_a_running_service_refuses_the_tokens_of_a_disabled_user(
    hourpass: Command, client: AsyncClient
) -> None:
    await register(client, LANCELOT)
    await register(client, GALAHAD)
    token, anothers = await log_in(client, LANCELOT), await log_in(client, GALAHAD)
    assert await token_is_valid(client, token)
    disabled = await hourpass("users", "disable", "Lancelot")
    assert disabled.stdout == "Disabled lancelot. All tokens of lancelot are revoked.\n"
    assert await becomes_invalid(client, token)
    assert (await client.post("/token", json=LANCELOT)).status_code == 401
    enabled = await hourpass("users", "enable", "lancelot")
    assert enabled.stdout == "Enabled lancelot. Tokens and sessions from before stay revoked.\n"
    assert await token_is_valid(client, await log_in(client, LANCELOT))
    assert not await token_is_valid(client, token)
    assert await token_is_valid(client, anothers)


@on_sqlite
async def test_revoke_tokens_revokes_tokens_and_sessions_of_that_user_only(
    hourpass: Command, client: AsyncClient
) -> None:
    await register(client, LANCELOT)
    await register(client, GALAHAD)
    session = await open_session(client, LANCELOT)
    token, anothers = await log_in(client, LANCELOT), await log_in(client, GALAHAD)
    assert (await hourpass("users", "revoke-tokens", "lancelot")).exit_code == 0
    assert await becomes_invalid(client, token)
    assert (await refresh(client, session["refresh_token"])).status_code == 400
    assert await token_is_valid(client, anothers)
    assert await log_in(client, LANCELOT)


@on_sqlite
async def test_a_user_is_deleted_after_a_confirmation(
    hourpass: Command, client: AsyncClient
) -> None:
    lancelot = await register(client, LANCELOT)
    token = await log_in(client, LANCELOT)
    for answer in ("n\n", ""):
        asked = await hourpass("users", "delete", "lancelot", stdin=answer)
        assert asked.exit_code == 1
        assert f"Delete lancelot (id {lancelot}, no scopes)? This cannot be undone." in asked.stderr
    assert await token_is_valid(client, token)
    done = await hourpass("users", "delete", "lancelot", "--yes")
    assert done.stdout == f"Deleted lancelot, whose id was {lancelot}.\n"
    assert await becomes_invalid(client, token)
    assert_refused(await hourpass("users", "delete", "lancelot", "--yes"), "User not found")
    asked = await hourpass("users", "erase", str(lancelot), stdin="n\n")
    assert (asked.exit_code, asked.stdout) == (1, "")
    erased = await hourpass("users", "erase", str(lancelot), "--yes")
    assert erased.stdout.startswith("Erased the personal data in ")


@on_sqlite
async def test_a_forced_reset_revokes_everything_and_its_code_sets_a_password(
    hourpass: Command, client: AsyncClient, clock: Clock
) -> None:
    clock.now = utc_now()  # as the command has it
    await register(client, LANCELOT)
    token = await log_in(client, LANCELOT)
    asked = await hourpass("users", "reset-password", "lancelot", stdin="n\n")
    assert asked.exit_code == 1
    assert await token_is_valid(client, token)
    done = await hourpass("users", "reset-password", "lancelot", stdin="y\n")
    assert done.exit_code == 0
    code = done.stdout.removesuffix("\n")
    assert "It is not shown again" in done.stderr
    assert code not in done.stderr
    assert await becomes_invalid(client, token)
    assert (await client.post("/token", json=LANCELOT)).status_code == 401
    (shown,) = await records(hourpass, "users", "show", "lancelot")
    assert set(shown["password_reset"]) == {"created_at", "expires_at", "mail"}
    assert code not in json.dumps(shown)
    confirmed = {"code": code, "new_password": NEW_PASSWORD}
    assert (await client.post("/password-resets/confirm", json=confirmed)).status_code == 200
    assert await log_in(client, {**LANCELOT, "password": NEW_PASSWORD})
    assert_refused(
        await hourpass("users", "reset-password", "lancelot", "--yes", "--mail"),
        "does not send mail",
    )
    wrong = await hourpass("users", "reset-password", "lancelot", "--language", "?")
    assert (wrong.exit_code, "--language" in wrong.output) == (2, True)


@on_sqlite
@pytest.mark.sends_mail
async def test_the_code_of_a_forced_reset_is_mailed_and_mailed_again(
    hourpass: Command, app: FastAPI, client: AsyncClient, mailbox: MailServer, clock: Clock
) -> None:
    clock.now = utc_now()
    await register(client, LANCELOT)
    await deliver_now(app, clock)
    mailbox.messages.clear()
    mail = {"SMTP_URL": mailbox.url, "MAIL_FROM": "no-reply@camelot.example"}
    options = ("--mail", "--language", "de", "--yes")
    done = await hourpass("users", "reset-password", "lancelot", *options, **mail)
    assert done.stdout.startswith("The code is mailed to lancelot. It is valid until ")
    await deliver_now(app, clock)
    assert mailbox.messages[0]["Content-Language"] == "de"
    again = await hourpass("users", "reset-password", "lancelot", "--resend", "--json", **mail)
    assert json.loads(again.stdout)["code"] is None
    await deliver_now(app, clock)
    assert len(mailbox.messages) == 2
    confirmed = {"code": mailbox.last_code(), "new_password": NEW_PASSWORD}
    assert (await client.post("/password-resets/confirm", json=confirmed)).status_code == 200
    (shown,) = await records(hourpass, "users", "show", "lancelot")
    assert (shown["password_reset"], shown["email_verified"]) == (None, True)


@on_sqlite
async def test_the_address_of_a_user_is_changed_verified_and_removed(
    hourpass: Command, client: AsyncClient
) -> None:
    await register(client, LANCELOT)
    for options, said in (
        (("--email-verified",), f"{LANCELOT['email']} (verified)"),
        (("--email", "du.lac@camelot.example"), "du.lac@camelot.example (not verified)"),
    ):
        changed = await hourpass("users", "change", "lancelot", *options)
        assert changed.stdout == f"lancelot has the e-mail address {said}.\n"
    removed = await hourpass("users", "change", "lancelot", "--email", "")
    assert removed.stdout == "lancelot has no e-mail address.\n"
    nothing = await hourpass("users", "change", "lancelot")
    assert (nothing.exit_code, "at least one option" in nothing.output) == (2, True)
    wrong = await hourpass("users", "change", "lancelot", "--email", "camelot")
    assert (wrong.exit_code, "--email: Must be an e-mail address" in wrong.output) == (2, True)


@on_sqlite
async def test_the_last_administrator_is_protected_as_over_http(
    hourpass: Command, client: AsyncClient
) -> None:
    for command in (
        "users disable arthur",
        "users delete arthur --yes",
        "users reset-password arthur --yes",
        "users revoke arthur admin --yes",
    ):
        refused = await hourpass(*command.split())
        assert_refused(refused, "Not allowed for the last administrator who can log in")
    assert await log_in(client, ARTHUR)


@on_sqlite
async def test_a_user_that_does_not_exist_is_an_error_of_one_line(hourpass: Command) -> None:
    mail = {"SMTP_URL": "smtp://mail.example", "MAIL_FROM": "no-reply@camelot.example"}
    for command in (
        "users show mordred",
        "users disable mordred",
        "users enable mordred",
        "users delete mordred --yes",
        "users change mordred --email-verified",
        "users reset-password mordred --yes",
        "users reset-password mordred --resend",
        "users reset-second-factor mordred",
        "users revoke-tokens mordred",
        "users grant mordred train",
        "users set-password mordred",
        "sessions list mordred",
        "sessions revoke --all mordred",
        "audit --user mordred",
    ):
        result = await hourpass(*command.split(), stdin="x\n", **mail)
        assert_refused(result, "User not found")


async def test_sessions_are_listed_and_revoked_one_by_one_or_all(
    hourpass: Command, client: AsyncClient, clock: Clock
) -> None:
    clock.now = utc_now()
    await register(client, LANCELOT)
    await register(client, GALAHAD)
    first, second, third = [await open_session(client, LANCELOT) for _ in range(3)]
    anothers = await open_session(client, GALAHAD)
    without = await log_in(client, LANCELOT)
    listed = await records(hourpass, "sessions", "list", "lancelot")
    headers = bearer(first["access_token"])
    assert listed == (await client.get("/me/sessions", headers=headers)).json()["sessions"]
    (gone,) = [one["id"] for one in listed if one["id"] == said_sid(second)]
    done = await hourpass("sessions", "revoke", gone)
    assert (done.exit_code, done.stdout) == (0, "Revoked 1 session of lancelot.\n")
    assert await becomes_invalid(client, second["access_token"])
    assert await token_is_valid(client, first["access_token"])
    for unknown in (gone, "x", "0" * 16):
        assert_refused(await hourpass("sessions", "revoke", unknown), "Session not found")
    done = await hourpass("sessions", "revoke", "--all", "lancelot", "--json")
    assert json.loads(done.stdout) == {"username": "lancelot", "revoked": 2}
    for session in (first, third):
        assert await becomes_invalid(client, session["access_token"])
        assert (await refresh(client, session["refresh_token"])).status_code == 400
    assert await token_is_valid(client, without)
    assert await token_is_valid(client, anothers["access_token"])
    assert (await hourpass("sessions", "list", "lancelot")).stdout.count("\n") == 1
    for arguments in ((), (gone, "--all", "lancelot")):
        assert (await hourpass("sessions", "revoke", *arguments)).exit_code == 2


def said_sid(session: dict[str, Any]) -> str:
    sid: str = claims_of(session["access_token"])["sid"]
    return sid


@on_sqlite
async def test_an_invitation_is_created_listed_used_and_revoked(
    hourpass: Command, client: AsyncClient, clock: Clock
) -> None:
    clock.now = utc_now()
    made = await hourpass("invitations", "create", "--scope", "train", "--days", "3")
    assert made.exit_code == 0, made.output
    code = made.stdout.removesuffix("\n")
    assert code not in made.stderr
    registered = await client.post("/register-user", json={**LANCELOT, "invitation": code})
    assert registered.status_code == 201
    (other,) = await records(hourpass, "invitations", "create")
    (listed,) = await records(hourpass, "invitations", "list")
    assert listed == {name: value for name, value in other.items() if name != "code"}
    row = (await hourpass("invitations", "list")).stdout.splitlines()[1]
    assert row.endswith("no scopes")
    revoked = await hourpass("invitations", "revoke", str(other["id"]))
    assert revoked.stdout == f"Revoked invitation {other['id']}.\n"
    refused = await client.post("/register-user", json={**GALAHAD, "invitation": other["code"]})
    assert_problem(refused, 403, "invalid_code")
    for command in ("revoke", "resend"):
        mail = {"SMTP_URL": "smtp://mail.example", "MAIL_FROM": "no-reply@camelot.example"}
        again = await hourpass("invitations", command, str(other["id"]), **mail)
        assert_refused(again, "Invitation not found")
    for options, hint in (
        (("--days", "31"), "--days"),
        (("--email", "x"), "--email"),
        (("--scope", "admin"), "--scope"),
    ):
        wrong = await hourpass("invitations", "create", *options)
        assert (wrong.exit_code, hint in wrong.output) == (2, True)
    assert_refused(
        await hourpass("invitations", "create", "--email", LANCELOT["email"]), "does not send mail"
    )


@on_sqlite
@pytest.mark.sends_mail
async def test_an_invitation_is_mailed_and_mailed_again(
    hourpass: Command, app: FastAPI, mailbox: MailServer, clock: Clock
) -> None:
    clock.now = utc_now()
    mail = {"SMTP_URL": mailbox.url, "MAIL_FROM": "no-reply@camelot.example"}
    made = await hourpass("invitations", "create", "--email", GALAHAD["email"], **mail)
    assert made.stdout.startswith(f"Invitation 1 is mailed to {GALAHAD['email']}. It is valid ")
    await deliver_now(app, clock)
    wrong = await hourpass("invitations", "resend", "1", "--language", "?", **mail)
    assert (wrong.exit_code, "--language" in wrong.output) == (2, True)
    again = await hourpass("invitations", "resend", "1", "--language", "de", **mail)
    assert again.stdout == f"Invitation 1 is mailed to {GALAHAD['email']} again.\n"
    await deliver_now(app, clock)
    assert [message["Content-Language"] for message in mailbox.messages] == ["en", "de"]
    (listed,) = await records(hourpass, "invitations", "list")
    assert listed["mail"]["state"] == "sent"


async def deliver_now(app: FastAPI, clock: Clock) -> None:
    """Mail that the command queued is due by the clock of the command."""
    clock.now = utc_now()
    await deliver(app)


def test_control_characters_are_escaped() -> None:
    assert as_text("curl\x1b]0;pwned\x07\n\u202e") == "curl\\x1b]0;pwned\\x07\\n\\u202e"
    assert as_text("Šarūnas 日本") == "Šarūnas 日本"
    assert as_text({"agent": "\x9b"}) == "agent=\\x9b"
