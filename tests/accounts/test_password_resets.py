"""A user who forgot the password sets a new one with a mailed code. Nobody else can do so or learn
which accounts exist."""

import asyncio
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from fastapi import FastAPI
from httpx import AsyncClient
from sqlalchemy import select

from app.context import RequestContext
from app.mail.delivery import FIRST_DELAY
from app.mail.models import OutgoingMail
from app.security.one_time_codes.errors import InvalidCodeError
from app.security.one_time_codes.models import Code
from app.security.one_time_codes.service import Purpose, text_to_mail
from app.security.rate_limits import service as rate_limits
from app.security.rate_limits.limits import ACCOUNT, ACCOUNT_AT_ADDRESS, ADDRESS
from tests.support.apps import client_of
from tests.support.authenticator import enroll, token_with
from tests.support.mail_server import MailServer, code_in, deliver
from tests.support.markers import on_sqlite
from tests.support.one_time_codes import issue
from tests.support.password_resets import NEW, WITH_NEW_PASSWORD, ask, confirm, lancelot
from tests.support.settings import Clock
from tests.support.users import (
    ARTHUR,
    GALAHAD,
    LANCELOT,
    assert_problem,
    bearer,
    log_in,
    open_session,
    refresh,
    register,
    token_is_valid,
)

__all__ = ["lancelot"]

pytestmark = pytest.mark.sends_mail


@pytest.fixture
async def code(client: AsyncClient, app: FastAPI) -> str:
    """Lancelot has registered and forgotten his password."""
    return await issue(app, await register(client, LANCELOT), Purpose.RESET)


async def test_a_forgotten_password_is_replaced_by_mail(
    app: FastAPI,
    client: AsyncClient,
    mailbox: MailServer,
    arthurs_token: str,
    subtests: pytest.Subtests,
) -> None:
    lancelot = await register(client, LANCELOT)
    session = await open_session(client, LANCELOT)
    answer = await ask(client, **{"X-Request-ID": "the-grail"})
    assert answer.status_code == 202
    assert answer.json() == {"message": "If an account has this address, a code is on its way"}
    await ask(client, "nobody@camelot.example")  # another request, meanwhile
    await deliver(app)
    assert mailbox.recipients[-1] == LANCELOT["email"]
    code = mailbox.last_code()
    with subtests.test("the code is not stored in plain text"):
        await ask(client)
        plain = code.replace("-", "")
        async with app.state.database.session() as database_session:
            for table in (Code.__table__, OutgoingMail.__table__):
                rows = (await database_session.execute(select(table))).all()
                assert rows
                assert not any(secret in str(row) for row in rows for secret in (code, plain))
    reset = await confirm(client, code)
    assert reset.json() == {"message": "Password changed", "user_id": lancelot}
    with subtests.test("the old password and what was logged in with it are invalid"):
        assert not await token_is_valid(client, session["token"])
        assert (await refresh(client, session["refresh_token"])).status_code == 400
        assert (await client.post("/token", json=LANCELOT)).status_code == 401
    with subtests.test("the audit log names the request and who confirmed"):
        query: dict[str, Any] = {"subject_id": lancelot}
        answer = await client.get("/audit", params=query, headers=bearer(arthurs_token))
        entries = answer.json()["entries"]
        (confirmed,) = (entry for entry in entries if entry["action"] == "user.reset_password")
        (requested,) = (entry for entry in entries if entry["action"] == "password_reset.request")
        assert (confirmed["actor_id"], requested["actor_id"]) == (lancelot, None)
        assert confirmed["address"] == requested["address"] == "127.0.0.1"
        assert requested["request_id"] == "the-grail"
    with subtests.test("the new password is valid, and the address is verified"):
        profile = await client.get("/me", headers=bearer(await log_in(client, WITH_NEW_PASSWORD)))
        assert profile.json()["email_verified"] is True


async def test_a_code_works_once_for_one_account_and_invalidates_the_others(
    app: FastAPI, client: AsyncClient
) -> None:
    lancelot = await register(client, LANCELOT)
    code, latest = (
        await issue(app, lancelot, Purpose.RESET),
        await issue(app, lancelot, Purpose.RESET),
    )
    await register(client, GALAHAD)
    assert latest != code
    as_typed = f" {latest.lower().replace('-', ' ')} "
    assert (await confirm(client, as_typed)).status_code == 200
    for used in (latest, code):
        assert_problem(await confirm(client, used, "another one"), 403, "invalid_code")
    for person in (WITH_NEW_PASSWORD, GALAHAD, ARTHUR):
        assert await log_in(client, person)


async def test_one_of_many_simultaneous_uses_of_a_code_succeeds(
    client: AsyncClient, code: str
) -> None:
    passwords = [f"password number {number}" for number in range(3)]
    answers = await asyncio.gather(*(confirm(client, code, password) for password in passwords))
    assert sorted(answer.status_code for answer in answers) == [200, 403, 403]
    (chosen,) = (p for p, a in zip(passwords, answers, strict=True) if a.status_code == 200)
    assert await log_in(client, {**LANCELOT, "password": chosen})


INVALID_CODES = [
    "",
    "x",
    "1" * 16,
    "A" * 15,
    "A" * 17,
    "A" * 5000,
    "AAAA-AAAA-AAAA-AAA\0",
    None,
    7,
]


@on_sqlite
async def test_an_invalid_code_is_rejected(
    app: FastAPI,
    client: AsyncClient,
    arthurs_token: str,
    clock: Clock,
    subtests: pytest.Subtests,
) -> None:
    for code in INVALID_CODES:
        with subtests.test(repr(code)[:40]):
            refused = await client.post(
                "/password-resets/confirm", json={"code": code, "new_password": NEW}
            )
            assert_problem(refused, 422, "invalid_request")
            if code:
                assert str(code) not in refused.text or code == "x"
    lancelot = await register(client, LANCELOT)
    with subtests.test("of a verification"):
        verification = await issue(app, lancelot, Purpose.VERIFY)
        assert_problem(await confirm(client, verification), 403, "invalid_code")
    with subtests.test("of an invitation"):
        invitation = await client.post("/invitations", json={}, headers=bearer(arthurs_token))
        assert_problem(await confirm(client, invitation.json()["code"]), 403, "invalid_code")
    with subtests.test("expired"):
        expired = await issue(app, lancelot, Purpose.RESET)
        clock.advance(timedelta(minutes=30))
        assert_problem(await confirm(client, expired), 403, "invalid_code")
    assert await log_in(client, LANCELOT)


@on_sqlite
async def test_each_change_of_the_account_invalidates_its_codes(
    app: FastAPI, client: AsyncClient, arthurs_token: str, subtests: pytest.Subtests
) -> None:
    proof = {"password": LANCELOT["password"]}
    changes: dict[str, tuple[str, str, dict[str, str]]] = {
        "password": ("POST", "/me/password", {**proof, "new_password": "another"}),
        "email": ("PATCH", "/me", {**proof, "email": "lake@avalon.example"}),
        "disabled": ("PUT", "/toggle-user-permission/{}/0", {}),
        "forced": ("POST", "/users/{}/password-reset", {}),
        "removed": ("DELETE", "/remove-user/{}", {}),
    }
    for name, (method, path, body) in changes.items():
        with subtests.test(name):
            person = {**LANCELOT, "username": name}
            user_id = await register(client, person)
            code = await issue(app, user_id, Purpose.RESET)
            token = await log_in(client, person) if path.startswith("/me") else arthurs_token
            done = await client.request(
                method, path.format(user_id), json=body, headers=bearer(token)
            )
            assert done.status_code == 200, done.text
            assert_problem(await confirm(client, code), 403, "invalid_code")


@on_sqlite
async def test_refused_changes_and_changes_of_others_leave_a_code_valid(
    app: FastAPI, client: AsyncClient, code: str
) -> None:
    await register(client, GALAHAD)
    body = {"password": GALAHAD["password"], "new_password": NEW}
    headers = bearer(await log_in(client, GALAHAD))
    assert (await client.post("/me/password", json=body, headers=headers)).status_code == 200
    headers = bearer(await log_in(client, LANCELOT))
    for method, path, change in [
        ("POST", "/me/password", {"new_password": "another"}),
        ("PATCH", "/me", {"email": "lake@avalon.example"}),
    ]:
        body = {"password": "wrong", **change}
        refused = await client.request(method, path, json=body, headers=headers)
        assert_problem(refused, 403, "wrong_password")
    app.state.services.passwords._strict = True
    for weak in ("short", "password123", LANCELOT["email"]):
        problem = assert_problem(await confirm(client, code, weak), 422, "invalid_request")
        assert problem["fields"][0]["field"] == "new_password"
    assert (await confirm(client, code)).status_code == 200


@on_sqlite
async def test_a_user_who_is_locked_out_by_others_logs_in_with_a_new_password_and_a_code(
    app: FastAPI, client: AsyncClient, code: str, clock: Clock
) -> None:
    phone = await enroll(client, LANCELOT, clock)
    async with client_of(app, "192.0.2.7") as guesser, client_of(app, "192.0.2.8") as journey:
        for _ in range(ACCOUNT.allowed):
            await guesser.post("/token", json={**LANCELOT, "password": "guess"})
        assert (await journey.post("/token", json=LANCELOT)).status_code == 429
        assert (await confirm(journey, code)).status_code == 200
        assert_problem(await journey.post("/token", json=WITH_NEW_PASSWORD), 401, "mfa_required")
        assert await token_with(journey, WITH_NEW_PASSWORD, phone.code())


@on_sqlite
async def test_a_user_with_failures_at_a_known_address_logs_in_there_with_a_new_password(
    app: FastAPI, code: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for limit in (ACCOUNT_AT_ADDRESS, ADDRESS):
        monkeypatch.setattr(rate_limits, limit.name.upper(), replace(limit, allowed=3))
    async with client_of(app, "192.0.2.7") as home:
        await log_in(home, LANCELOT)
        for _ in range(3):
            await home.post("/token", json={**LANCELOT, "password": "forgotten"})
        for number in range(3):
            await home.post("/token", json={"username": f"nobody{number}", "password": "x"})
        assert (await home.post("/token", json=LANCELOT)).status_code == 429
        assert (await confirm(home, code)).status_code == 200
        assert await log_in(home, WITH_NEW_PASSWORD)
        nobody = await home.post("/token", json={"username": "nobody", "password": "x"})
        assert nobody.status_code == 429  # failures with other accounts still count


# Whose mail it is


@on_sqlite
async def test_unknown_and_disabled_users_get_the_same_answer_and_no_mail(
    app: FastAPI, client: AsyncClient, mailbox: MailServer, arthurs_token: str
) -> None:
    lancelot = await register(client, LANCELOT)
    known = await ask(client)
    path = f"/toggle-user-permission/{lancelot}/0"
    await client.put(path, headers=bearer(arthurs_token))
    for email in ("nobody@camelot.example", LANCELOT["email"]):
        answer = await ask(client, email)
        assert (answer.status_code, answer.json()) == (known.status_code, known.json())
        assert answer.headers.keys() == known.headers.keys()
    await deliver(app)
    assert mailbox.messages == []


@on_sqlite
async def test_the_mail_is_sent_to_the_address_of_the_account_however_it_was_typed(
    app: FastAPI, client: AsyncClient, mailbox: MailServer
) -> None:
    """Not to the requested address, which may look alike and belong to an attacker."""
    await register(client, {**LANCELOT, "email": "Lancelot@bücher.example"})
    await register(client, {**GALAHAD, "email": "Straße@b.example"})
    await deliver(app)
    mailbox.recipients.clear()
    for typed, recipient in [
        ("lancelot@XN--BCHER-KVA.example", "Lancelot@xn--bcher-kva.example"),
        ("LANCELOT@BÜCHER.EXAMPLE", "Lancelot@xn--bcher-kva.example"),
        ("STRASSE@B.example", "Straße@b.example"),
        ("stra\u017fse@b.example", "Straße@b.example"),  # a long s
    ]:
        assert (await ask(client, typed)).status_code == 202
        await deliver(app)
        assert mailbox.recipients == [recipient], typed
        mailbox.recipients.clear()
    assert (await confirm(client, mailbox.last_code())).status_code == 200


@on_sqlite
async def test_all_accounts_of_an_address_get_a_code_of_their_own(
    app: FastAPI, client: AsyncClient, mailbox: MailServer, arthurs_token: str
) -> None:
    ids = [await register(client, LANCELOT), await register(client, {**LANCELOT, "username": "2"})]
    path = f"/users/{ids[0]}"
    headers = bearer(arthurs_token)
    await client.patch(path, json={"email_verified": True}, headers=headers)
    await ask(client)
    await deliver(app)
    _verification_of_the_second, first, second = mailbox.messages
    assert "account lancelot at" in first.get_content()
    assert f"account #{ids[1]} at" in second.get_content()  # a name that might be an advertisement
    assert (await confirm(client, code_in(second))).json()["user_id"] == ids[1]
    assert (await confirm(client, code_in(first))).json()["user_id"] == ids[0]


INVALID_ADDRESSES: list[Any] = [
    "x@y.example\r\nBcc: mordred@orkney.example",
    "lancelot@camelot.example\n",
    " lancelot@camelot.example",
    "lancelot@camelot.example\0",
    "a@b@camelot.example",
    "=?utf-8?b?eA0KQmNjOiBtb3JkcmVkQG9ya25leS5leGFtcGxl?=@camelot.example",
    "<lancelot@camelot.example>",
    "Lancelot <lancelot@camelot.example>",
    "lancelot@camelot.example, mordred@orkney.example",
    "lancelot@camelot\u2028.example",
    "\u202elancelot@camelot.example",
    "lance\u200blot@camelot.example",
    "",
    None,
    ["lancelot@camelot.example"],
]
UNKNOWN_ADDRESSES = [
    "x" * 65 + "@camelot.example",  # some mail servers accept more than the 64 of RFC 5321
    "lancelot+x@camelot.example",
    "lancelot@camelot.example.orkney.example",
]


@on_sqlite
@pytest.mark.usefixtures("lancelot")
async def test_addresses_that_resemble_that_of_a_user_send_no_mail(
    app: FastAPI, client: AsyncClient, mailbox: MailServer, subtests: pytest.Subtests
) -> None:
    for email in INVALID_ADDRESSES + UNKNOWN_ADDRESSES:
        with subtests.test(repr(email)):
            answer = await client.post("/password-resets", json={"email": email})
            if email in UNKNOWN_ADDRESSES:
                assert answer.status_code == 202
                await deliver(app)
                assert mailbox.messages == []
            else:
                assert_problem(answer, 422, "invalid_request")
    async with app.state.database.session() as session:
        assert (await session.scalars(select(OutgoingMail))).all() == []


@on_sqlite
async def test_a_rejected_message_causes_no_other_one_to_be_sent_twice(
    app: FastAPI, client: AsyncClient, mailbox: MailServer, lancelot: int, clock: Clock
) -> None:
    assert lancelot
    other = "Lancelot@camelot.example"  # which folds alike
    await register(client, {**LANCELOT, "username": "2", "email": other})
    await deliver(app)
    mailbox.recipients.clear()
    mailbox.answers[other] = "451 Try again later"
    await ask(client)
    for _ in range(3):
        await deliver(app)
        clock.advance(4 * FIRST_DELAY)
    mailbox.answers.clear()
    await deliver(app)
    assert mailbox.recipients == [LANCELOT["email"], other]


@on_sqlite
async def test_a_code_that_is_too_old_or_deleted_is_not_mailed(
    app: FastAPI, client: AsyncClient, mailbox: MailServer, clock: Clock, lancelot: int
) -> None:
    assert lancelot
    mailbox.answers[LANCELOT["email"]] = "451 Try again later"
    await ask(client)
    await deliver(app)
    mailbox.answers.clear()
    clock.advance(timedelta(minutes=30))
    await deliver(app)
    assert mailbox.messages == []
    async with app.state.database.session() as session:
        with pytest.raises(InvalidCodeError):
            await text_to_mail(RequestContext(session, clock()), 4711, None, is_first_try=True)
