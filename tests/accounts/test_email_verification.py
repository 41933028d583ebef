"""An address is verified when its user sends back a code that was mailed to it."""

from dataclasses import replace
from datetime import timedelta

import pytest
from fastapi import FastAPI
from httpx import AsyncClient, Response
from sqlalchemy import update

from app.database.engine import begin_write
from app.mail import service as mail
from app.mail.worker import CLAIM_PERIOD
from app.security.one_time_codes.service import Purpose
from app.security.rate_limits.limits import VERIFICATION
from app.users.models import User
from tests.support.mail_server import MailServer, code_in, deliver
from tests.support.markers import on_sqlite
from tests.support.one_time_codes import issue
from tests.support.settings import Clock
from tests.support.users import GALAHAD, LANCELOT, assert_problem, bearer, log_in, register

pytestmark = pytest.mark.sends_mail


async def send(client: AsyncClient, token: str) -> Response:
    return await client.post("/me/email-verification", headers=bearer(token))


async def confirm(client: AsyncClient, token: str, code: str) -> Response:
    body = {"code": code}
    return await client.post("/me/email-verification/confirm", json=body, headers=bearer(token))


async def is_verified(client: AsyncClient, token: str) -> bool:
    verified: bool = (await client.get("/me", headers=bearer(token))).json()["email_verified"]
    return verified


@pytest.fixture
async def token(client: AsyncClient) -> str:
    """Lancelot has registered. The message about that is in the outbox."""
    await register(client, LANCELOT)
    return await log_in(client, LANCELOT)


@pytest.fixture
async def code(app: FastAPI, token: str) -> str:
    assert token
    return await issue(app, 2, Purpose.VERIFY, LANCELOT["email"])


async def test_a_registration_sends_a_code_that_works_once_and_for_its_own_user(
    app: FastAPI, client: AsyncClient, mailbox: MailServer, token: str
) -> None:
    await deliver(app)
    assert mailbox.recipients == [LANCELOT["email"]]
    assert LANCELOT["username"] not in str(mailbox.messages[0]).replace(LANCELOT["email"], "")
    code = mailbox.last_code()
    assert not await is_verified(client, token)
    await register(client, GALAHAD)
    galahads = await log_in(client, GALAHAD)
    assert_problem(await confirm(client, galahads, code), 403, "invalid_code")
    assert not await is_verified(client, galahads)
    answer = await confirm(client, token, code)
    assert answer.status_code == 200
    assert answer.json()["email_verified"] is True
    assert await is_verified(client, token)
    assert_problem(await confirm(client, token, code), 403, "invalid_code")
    assert_problem(await send(client, token), 409, "nothing_to_verify")


async def test_an_expired_code_is_rejected(
    client: AsyncClient, code: str, token: str, clock: Clock
) -> None:
    assert token
    clock.advance(timedelta(days=1))
    token = await log_in(client, LANCELOT)
    assert_problem(await confirm(client, token, code), 403, "invalid_code")
    assert not await is_verified(client, token)


@on_sqlite
async def test_another_case_of_the_address_is_the_same_mailbox(
    app: FastAPI, client: AsyncClient, mailbox: MailServer, token: str
) -> None:
    async def change_case(*, is_verified: bool) -> None:
        mailbox.messages.clear()
        for email in ("Lancelot@Camelot.example", "LANCELOT@camelot.EXAMPLE"):
            change = {"password": LANCELOT["password"], "email": email}
            changed = await client.patch("/me", json=change, headers=bearer(token))
            assert changed.json()["email"] == email.partition("@")[0] + "@camelot.example"
            assert changed.json()["email_verified"] is is_verified
        await deliver(app)

    await change_case(is_verified=False)
    assert (await confirm(client, token, mailbox.last_code())).status_code == 200
    await change_case(is_verified=True)
    assert mailbox.messages == []


@on_sqlite
async def test_each_new_address_needs_a_code_of_its_own(
    app: FastAPI, client: AsyncClient, mailbox: MailServer, code: str, token: str
) -> None:
    for email in ("lake@avalon.example", "tarn@avalon.example"):
        body = {"password": LANCELOT["password"], "email": email}
        changed = await client.patch("/me", json=body, headers=bearer(token))
        assert changed.json()["email_verified"] is False
        assert_problem(await confirm(client, token, code), 403, "invalid_code")
        await deliver(app)
        assert mailbox.recipients[-1] == email
        assert (await confirm(client, token, mailbox.last_code())).status_code == 200
        assert await is_verified(client, token)


@on_sqlite
async def test_a_code_does_not_verify_an_address_that_was_changed_in_the_database(
    app: FastAPI, client: AsyncClient, code: str, token: str
) -> None:
    async with app.state.database.session() as session:
        await begin_write(session)
        await session.execute(update(User).where(User.id == 2).values(email="lake@avalon.example"))
        await session.commit()
    assert_problem(await confirm(client, token, code), 403, "invalid_code")
    assert not await is_verified(client, token)


@on_sqlite
async def test_a_code_can_be_sent_again_and_both_work(
    app: FastAPI, client: AsyncClient, mailbox: MailServer, token: str
) -> None:
    assert (await send(client, token)).json() == {"message": "A code is on its way"}
    await deliver(app)
    first, second = map(code_in, mailbox.messages)
    assert first != second
    assert (await confirm(client, token, first)).status_code == 200


@on_sqlite
async def test_a_user_cannot_have_mail_sent_to_many_strangers(
    app: FastAPI,
    client: AsyncClient,
    mailbox: MailServer,
    token: str,
    clock: Clock,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(mail, "VERIFICATION", replace(VERIFICATION, allowed=2))
    await deliver(app)
    for number in range(3):
        body = {"password": LANCELOT["password"], "email": f"stranger{number}@avalon.example"}
        changed = await client.patch("/me", json=body, headers=bearer(token))
        assert changed.json()["email"] == body["email"]
        await deliver(app)
    assert len(mailbox.messages) == 2  # the first one to the former address
    refused = await send(client, token)
    assert_problem(refused, 429, "too_many_attempts")
    clock.advance(timedelta(seconds=int(refused.headers["Retry-After"])))
    assert (await send(client, token)).status_code == 202
    await deliver(app)
    assert mailbox.recipients[-1] == body["email"]


@on_sqlite
async def test_without_an_address_there_is_nothing_to_verify(
    client: AsyncClient, token: str
) -> None:
    body = {"password": LANCELOT["password"], "email": ""}
    await client.patch("/me", json=body, headers=bearer(token))
    assert_problem(await send(client, token), 409, "nothing_to_verify")
    assert (await client.post("/me/email-verification/confirm", json={})).status_code == 401


@on_sqlite
async def test_an_administrator_marks_an_address_as_verified_and_unverified(
    app: FastAPI, client: AsyncClient, mailbox: MailServer, token: str, arthurs_token: str
) -> None:
    headers, path = bearer(arthurs_token), "/users/2"
    sent = len(mailbox.messages)
    for body in ({"email_verified": True}, {"email": "a@b.example", "email_verified": True}):
        changed = await client.patch(path, json=body, headers=headers)
        assert changed.json()["email_verified"] is True
        assert await is_verified(client, token)
    await deliver(app)
    assert mailbox.recipients[sent:] == [LANCELOT["email"]]  # a notice to the former address
    changed = await client.patch(path, json={"email_verified": False}, headers=headers)
    assert changed.json()["email_verified"] is False
    without_address = {"email": "", "email_verified": True}
    refused = await client.patch(path, json=without_address, headers=headers)
    (field,) = assert_problem(refused, 422, "invalid_request")["fields"]
    assert field["field"] == "email_verified"
    record = (await client.get(path, headers=headers)).json()
    assert record["email"] == "a@b.example"


@on_sqlite
async def test_verification_mails_are_limited_per_user(client: AsyncClient, token: str) -> None:
    await register(client, GALAHAD)
    for own in (token, await log_in(client, GALAHAD)):
        answers = [(await send(client, own)).status_code for _ in range(VERIFICATION.allowed + 1)]
        assert answers == [202] * (VERIFICATION.allowed - 1) + [429] * 2  # one at the registration


@on_sqlite
async def test_two_users_with_one_address_each_verify_it_with_their_own_code(
    app: FastAPI, client: AsyncClient, mailbox: MailServer, token: str
) -> None:
    await register(client, {**GALAHAD, "email": LANCELOT["email"]})
    galahads = await log_in(client, GALAHAD)
    await deliver(app)
    mailbox.messages.clear()
    await send(client, token)
    await deliver(app)
    (message,) = mailbox.messages  # and none for Galahad
    code = code_in(message)
    assert_problem(await confirm(client, galahads, code), 403, "invalid_code")
    assert (await confirm(client, token, code)).status_code == 200
    assert not await is_verified(client, galahads)


CHANGES: dict[str, dict[str, object]] = {
    "verified": {"email_verified": True},
    "replaced": {"email": "lake@avalon.example"},
}


@on_sqlite
async def test_no_mail_is_sent_for_an_address_that_is_verified_or_replaced_meanwhile(
    app: FastAPI,
    client: AsyncClient,
    mailbox: MailServer,
    arthurs_token: str,
    clock: Clock,
    subtests: pytest.Subtests,
) -> None:
    """Neither before its code is generated nor afterwards, while the mail server was busy."""
    for name, change in CHANGES.items():
        for was_tried in (False, True):
            with subtests.test(f"{name}, {was_tried=}"):
                username = f"{name}-{was_tried}"
                email = f"{username}@camelot.example"
                user_id = await register(client, {**LANCELOT, "username": username, "email": email})
                if was_tried:
                    mailbox.answers[email] = "451 Try again later"
                    await deliver(app)
                    mailbox.answers.clear()
                headers = bearer(arthurs_token)
                done = await client.patch(f"/users/{user_id}", json=change, headers=headers)
                assert done.status_code == 200, done.text
                clock.advance(CLAIM_PERIOD)
                await deliver(app)
                expected = [change["email"]] if "email" in change else []
                assert mailbox.recipients == expected
                mailbox.recipients.clear()


@on_sqlite
async def test_no_second_mail_is_sent_after_the_first_code_was_used(
    app: FastAPI, client: AsyncClient, mailbox: MailServer, code: str, token: str, clock: Clock
) -> None:
    await send(client, token)
    mailbox.answers[LANCELOT["email"]] = "451 Try again later"
    await deliver(app)
    mailbox.answers.clear()
    assert (await confirm(client, token, code)).status_code == 200
    clock.advance(CLAIM_PERIOD)
    await deliver(app)
    assert mailbox.messages == []


@on_sqlite
async def test_verifying_an_address_keeps_the_code_of_a_password_reset(
    app: FastAPI, client: AsyncClient, code: str, token: str
) -> None:
    reset = {"code": await issue(app, 2, Purpose.RESET), "new_password": "guinevere in the garden"}
    assert (await confirm(client, token, code)).status_code == 200
    assert (await client.post("/password-resets/confirm", json=reset)).status_code == 200
