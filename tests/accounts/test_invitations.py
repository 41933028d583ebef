"""With REGISTRATION=invite, each account needs a code, which works once. Without one, nobody learns
which names exist."""

import asyncio
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from fastapi import FastAPI
from httpx import AsyncClient, Response

from app.accounts.registration import service as registration
from app.security.one_time_codes import service as codes
from app.security.rate_limits.limits import INVITATION
from app.settings import Settings
from tests.support.apps import started_client
from tests.support.mail_server import MailServer, deliver
from tests.support.markers import on_sqlite
from tests.support.settings import Clock
from tests.support.users import ARTHUR, GALAHAD, LANCELOT, assert_problem, bearer, log_in, register


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return in_mode(settings, "invite")


async def invite(client: AsyncClient, token: str, **body: Any) -> dict[str, Any]:
    response = await client.post("/invitations", json=body, headers=bearer(token))
    assert response.status_code == 201, response.text
    invitation: dict[str, Any] = response.json()
    return invitation


async def register_with(client: AsyncClient, code: str | None, **person: Any) -> Response:
    return await client.post("/register-user", json={**LANCELOT, "invitation": code, **person})


async def listed(client: AsyncClient, token: str, **query: Any) -> list[int]:
    response = await client.get("/invitations", params=query, headers=bearer(token))
    assert response.status_code == 200, response.text
    return [invitation["id"] for invitation in response.json()["invitations"]]


async def test_an_invited_user_registers_once(client: AsyncClient, arthurs_token: str) -> None:
    invitation = await invite(client, arthurs_token, scopes=["train", "predict"])
    assert invitation["scopes"] == ["predict", "train"]
    assert invitation["email"] is None
    assert invitation["expires_at"] == "2026-11-30T12:00:00Z"
    registered = await register_with(client, invitation["code"])
    assert registered.status_code == 201
    again = await register_with(client, invitation["code"], username="mordred")
    assert_problem(again, 403, "invalid_code")
    user_id, headers = registered.json()["user_id"], bearer(arthurs_token)
    record = (await client.get(f"/users/{user_id}", headers=headers)).json()
    assert record["scopes"] == ["predict", "train"]
    query: dict[str, Any] = {"subject_id": user_id}
    (entry,) = (await client.get("/audit", params=query, headers=headers)).json()["entries"]
    assert entry["details"] == {"invitation": str(invitation["id"]), "to": "predict train"}
    assert await listed(client, arthurs_token) == []


@on_sqlite
async def test_without_an_invitation_nobody_learns_which_names_exist(client: AsyncClient) -> None:
    answers = [
        await register_with(client, code, username=name)
        for name in (ARTHUR["username"], "nobody")
        for code in (None, "AAAA-AAAA-AAAA-AAAA")
    ]
    assert [answer.json()["error"] for answer in answers] == [
        "invitation_required",
        "invalid_code",
    ] * 2
    assert answers[0].json() == answers[2].json()
    assert answers[1].json() == answers[3].json()


@on_sqlite
async def test_an_invitation_is_enough_to_try_only_a_few_names(
    client: AsyncClient, arthurs_token: str, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registration, "INVITATION", replace(INVITATION, allowed=2))
    code, another = [(await invite(client, arthurs_token))["code"] for _ in range(2)]
    for _ in range(2):
        taken = await register_with(client, code, username=ARTHUR["username"])
        assert_problem(taken, 409, "user_exists")  # an invited user has to be told
    assert_problem(await register_with(client, code), 429, "too_many_attempts")
    assert (await register_with(client, another, username="elaine")).status_code == 201
    clock.advance(INVITATION.max_delay)
    assert (await register_with(client, code)).status_code == 201


@on_sqlite
async def test_a_refused_registration_does_not_use_up_the_invitation(
    app: FastAPI, client: AsyncClient, arthurs_token: str
) -> None:
    app.state.services.passwords._strict = True
    code = (await invite(client, arthurs_token))["code"]
    assert (await register_with(client, code, password="password1")).status_code == 422
    assert (await register_with(client, code, username=ARTHUR["username"])).status_code == 409
    assert (await register_with(client, code)).status_code == 201


async def test_one_of_many_simultaneous_uses_of_an_invitation_succeeds(
    client: AsyncClient, arthurs_token: str
) -> None:
    code = (await invite(client, arthurs_token))["code"]
    names = [f"knight{number}" for number in range(4)]
    answers = await asyncio.gather(*(register_with(client, code, username=name) for name in names))
    assert [answer.status_code for answer in answers].count(201) == 1
    assert {answer.status_code for answer in answers} <= {201, 403, 429}


async def test_an_expired_or_withdrawn_invitation_is_rejected(
    client: AsyncClient, arthurs_token: str, clock: Clock
) -> None:
    first = await invite(client, arthurs_token, days=1)
    second, kept = [await invite(client, arthurs_token, days=30) for _ in range(2)]
    path = f"/invitations/{second['id']}"
    assert (await client.delete(path, headers=bearer(arthurs_token))).status_code == 200
    again = await client.delete(path, headers=bearer(arthurs_token))
    assert_problem(again, 404, "invitation_not_found")
    assert_problem(await register_with(client, second["code"]), 403, "invalid_code")
    clock.advance(timedelta(days=1))
    arthurs_token = await log_in(client, ARTHUR)
    assert await listed(client, arthurs_token) == [kept["id"]]
    assert_problem(await register_with(client, first["code"]), 403, "invalid_code")
    assert (await register_with(client, kept["code"])).status_code == 201


@on_sqlite
async def test_any_number_of_invitations_are_open_at_once(
    client: AsyncClient, arthurs_token: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A user's own codes are limited to MAX_OPEN."""
    monkeypatch.setattr(codes, "MAX_OPEN", 1)
    first, *_ = [await invite(client, arthurs_token) for _ in range(3)]
    assert (await register_with(client, first["code"])).status_code == 201


@on_sqlite
async def test_pages_of_open_invitations(client: AsyncClient, arthurs_token: str) -> None:
    ids = [(await invite(client, arthurs_token))["id"] for _ in range(5)]
    page = await client.get("/invitations?limit=3", headers=bearer(arthurs_token))
    assert [one["id"] for one in page.json()["invitations"]] == ids[:3]
    assert all("code" not in one for one in page.json()["invitations"])
    assert await listed(client, arthurs_token, cursor=page.json()["next_cursor"]) == ids[3:]


INVALID_INVITATIONS: list[dict[str, Any]] = [
    {"days": 0},
    {"days": 31},
    {"scopes": ["admin"]},
    {"email": "x@y.example\r\nBcc: mordred@orkney.example"},
    {"is_admin": True},
]


@on_sqlite
async def test_an_invalid_invitation_is_rejected(
    client: AsyncClient, arthurs_token: str, subtests: pytest.Subtests
) -> None:
    for body in INVALID_INVITATIONS:
        with subtests.test(str(body)):
            refused = await client.post("/invitations", json=body, headers=bearer(arthurs_token))
            assert_problem(refused, 422, "invalid_request")
    with subtests.test("by mail without a mail server"):
        body = {"email": GALAHAD["email"]}
        refused = await client.post("/invitations", json=body, headers=bearer(arthurs_token))
        assert_problem(refused, 403, "mail_unavailable")
    assert await listed(client, arthurs_token) == []


@on_sqlite
async def test_only_administrators_manage_invitations(
    client: AsyncClient, arthurs_token: str
) -> None:
    invitation = await invite(client, arthurs_token)
    await register_with(client, invitation["code"])
    headers = bearer(await log_in(client, LANCELOT))
    for method, path in [
        ("POST", "/invitations"),
        ("GET", "/invitations"),
        ("DELETE", "/invitations/1"),
    ]:
        content = b"{}" if method == "POST" else None
        refused = await client.request(method, path, headers=headers, content=content)
        assert_problem(refused, 403, "insufficient_scope")
        assert (await client.request(method, path, content=content)).status_code == 401


@on_sqlite
async def test_invitations_work_with_open_but_not_with_closed_registration(
    settings: Settings, clock: Clock, arthurs_token: str, client: AsyncClient
) -> None:
    code = (await invite(client, arthurs_token, scopes=["train"]))["code"]
    async with started_client(in_mode(settings, "closed"), clock) as closed:
        assert_problem(await register_with(closed, code), 403, "registration_closed")
    async with started_client(in_mode(settings, "open"), clock) as other:
        await register(other, GALAHAD)
        assert_problem(await register_with(other, "AAAA-AAAA-AAAA-AAAA"), 403, "invalid_code")
        await register_with(other, code)
        granted = await other.post("/token", json=LANCELOT)
        assert granted.json()["scope"] == "train"


def in_mode(settings: Settings, registration: str) -> Settings:
    return settings.model_copy(update={"registration": registration})


INVITED_AND_REGISTERED = {
    "in any case": ("Lancelot@Camelot.example", LANCELOT["email"], True),
    "as it was typed": ("lancelot@camelot.example", "Lancelot@camelot.example", True),
    "another address": ("lancelot@camelot.example", "lake@avalon.example", False),
    "one that folds alike": ("strasse@camelot.example", "straße@camelot.example", False),
}


@on_sqlite
@pytest.mark.sends_mail
async def test_a_mailed_code_verifies_the_address(
    app: FastAPI,
    client: AsyncClient,
    mailbox: MailServer,
    arthurs_token: str,
    subtests: pytest.Subtests,
) -> None:
    for username, (invited, email, is_verified) in INVITED_AND_REGISTERED.items():
        with subtests.test(username):
            mailbox.messages.clear()
            mailbox.recipients.clear()
            invitation = await invite(client, arthurs_token, email=invited, days=2)
            assert invitation["code"] is None
            await deliver(app)
            assert mailbox.recipients == [invited.replace("Camelot", "camelot")]
            assert "2026-11-25 12:00 UTC" in mailbox.messages[0].get_content()
            answer = await register_with(
                client, mailbox.last_code(), username=username, email=email
            )
            assert answer.status_code == 201
            path, headers = f"/users/{answer.json()['user_id']}", bearer(arthurs_token)
            record = (await client.get(path, headers=headers)).json()
            assert record["email_verified"] is is_verified
            await deliver(app)
            assert len(mailbox.messages) == (1 if is_verified else 2)  # or a code to verify it


@on_sqlite
@pytest.mark.sends_mail
async def test_a_withdrawn_invitation_is_not_mailed(
    app: FastAPI, client: AsyncClient, mailbox: MailServer, arthurs_token: str
) -> None:
    invitation = await invite(client, arthurs_token, email=GALAHAD["email"])
    path = f"/invitations/{invitation['id']}"
    await client.delete(path, headers=bearer(arthurs_token))
    await deliver(app)
    assert mailbox.messages == []
