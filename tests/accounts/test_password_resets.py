"""Whoever forgot a password gets a new one by a code, and nobody else does, nor learns anything."""

import asyncio
from datetime import timedelta
from typing import Any

import pytest
from fastapi import FastAPI
from httpx import AsyncClient, Response
from sqlalchemy import func, select

from app.context import RequestContext
from app.database.engine import begin_write
from app.events import Events, Subscriber
from app.mail.delivery import FIRST_DELAY
from app.mail.models import OutgoingMail
from app.mail.worker import MAX_ACCOUNTS, MailWorker
from app.main import create_app
from app.security.one_time_codes.errors import InvalidCodeError
from app.security.one_time_codes.models import Code
from app.security.one_time_codes.service import MAX_OPEN, Purpose, issue, text_to_mail
from app.security.rate_limits.limits import ACCOUNT, ACCOUNT_AT_ADDRESS, ADDRESS, MAILBOX, RESET
from app.settings import Settings
from app.users.service import Users
from tests.support.apps import client_of
from tests.support.authenticator import enroll
from tests.support.mail_server import (
    MailServer,
    code_in,
    deliver,
    stop_background_worker,
)
from tests.support.markers import on_sqlite
from tests.support.settings import Clock
from tests.support.users import (
    ARTHUR,
    GALAHAD,
    LANCELOT,
    assert_problem,
    bearer,
    log_in,
    open_session,
    register,
    renew,
    token_holds,
)

NEW = "guinevere in the garden"
RENEWED = {**LANCELOT, "password": NEW}


@pytest.fixture
def settings(settings: Settings, mailbox: MailServer, monkeypatch: pytest.MonkeyPatch) -> Settings:
    stop_background_worker(monkeypatch)
    mail = {"smtp_url": mailbox.url, "mail_from": "Camelot <no-reply@camelot.example>"}
    return Settings.model_validate({**settings.model_dump(), **mail})


async def ask(client: AsyncClient, email: str = LANCELOT["email"], **headers: str) -> Response:
    return await client.post("/password-resets", json={"email": email}, headers=headers)


async def confirm(client: AsyncClient, code: str, password: str = NEW) -> Response:
    body = {"code": code, "new_password": password}
    return await client.post("/password-resets/confirm", json=body)


@pytest.fixture
async def lancelot(client: AsyncClient, app: FastAPI, mailbox: MailServer) -> int:
    """Registered; what that sent is delivered and put aside."""
    user_id = await register(client, LANCELOT)
    await deliver(app)
    mailbox.messages.clear()
    return user_id


@pytest.fixture
async def code(client: AsyncClient, app: FastAPI, mailbox: MailServer, lancelot: int) -> str:
    """What Lancelot was sent when he forgot his password."""
    assert lancelot
    assert (await ask(client)).status_code == 202
    await deliver(app)
    return mailbox.last_code()


async def test_a_forgotten_password_is_replaced_by_mail(
    app: FastAPI, client: AsyncClient, mailbox: MailServer, lancelot: int
) -> None:
    session = await open_session(client, LANCELOT)
    answer = await ask(client)
    assert answer.status_code == 202
    assert answer.json() == {"message": "If an account has this address, a code is on its way"}
    await deliver(app)
    assert mailbox.recipients[-1] == LANCELOT["email"]
    reset = await confirm(client, mailbox.last_code())
    assert reset.json() == {"message": "Password changed", "user_id": lancelot}
    assert not await token_holds(client, session["token"])
    assert (await renew(client, session["refresh_token"])).status_code == 400
    assert (await client.post("/token", json=LANCELOT)).status_code == 401
    profile = await client.get("/me", headers=bearer(await log_in(client, RENEWED)))
    assert profile.json()["email_verified"] is True


async def test_an_address_is_found_as_it_was_typed(
    app: FastAPI, client: AsyncClient, mailbox: MailServer
) -> None:
    email = "Lancelot@bücher.example"
    await register(client, {**LANCELOT, "email": email})
    await deliver(app)
    for typed in ("lancelot@XN--BCHER-KVA.example", "LANCELOT@BÜCHER.EXAMPLE"):
        assert (await ask(client, typed)).status_code == 202
        await deliver(app)
    assert mailbox.recipients == ["Lancelot@xn--bcher-kva.example"] * 3
    assert (await confirm(client, mailbox.last_code())).status_code == 200


async def test_a_code_works_once(client: AsyncClient, code: str) -> None:
    assert (await confirm(client, code)).status_code == 200
    assert_problem(await confirm(client, code, "another one"), 403, "invalid_code")
    assert await log_in(client, RENEWED)


async def test_one_of_many_simultaneous_uses_of_a_code_succeeds(
    client: AsyncClient, code: str
) -> None:
    passwords = [f"password number {number}" for number in range(12)]
    answers = await asyncio.gather(*(confirm(client, code, password) for password in passwords))
    assert sorted(answer.status_code for answer in answers) == [200] + [403] * 11
    (chosen,) = (p for p, a in zip(passwords, answers, strict=True) if a.status_code == 200)
    assert await log_in(client, {**LANCELOT, "password": chosen})


async def test_an_expired_code_is_rejected(client: AsyncClient, code: str, clock: Clock) -> None:
    clock.advance(timedelta(minutes=30))
    assert_problem(await confirm(client, code), 403, "invalid_code")
    assert await log_in(client, LANCELOT)


async def test_a_used_code_invalidates_the_others(
    app: FastAPI, client: AsyncClient, mailbox: MailServer, code: str
) -> None:
    await ask(client)
    await deliver(app)
    assert (await confirm(client, mailbox.last_code())).status_code == 200
    assert_problem(await confirm(client, code, "another"), 403, "invalid_code")


async def test_a_code_is_read_as_people_type_it(client: AsyncClient, code: str) -> None:
    assert (await confirm(client, f" {code.lower().replace('-', ' ')} ")).status_code == 200


async def test_a_code_for_something_else_resets_nothing(
    app: FastAPI, client: AsyncClient, mailbox: MailServer
) -> None:
    await register(client, LANCELOT)
    await deliver(app)  # to verify the address
    assert_problem(await confirm(client, mailbox.last_code()), 403, "invalid_code")
    invitation = await client.post(
        "/invitations", json={}, headers=bearer(await log_in(client, ARTHUR))
    )
    assert_problem(await confirm(client, invitation.json()["code"]), 403, "invalid_code")


async def test_no_other_account_is_changed(client: AsyncClient, code: str) -> None:
    await register(client, GALAHAD)
    assert (await confirm(client, code)).status_code == 200
    assert await log_in(client, GALAHAD)
    assert await log_in(client, ARTHUR)


NO_CODES = [
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
async def test_an_invalid_code_is_rejected(client: AsyncClient, subtests: pytest.Subtests) -> None:
    for code in NO_CODES:
        with subtests.test(repr(code)[:40]):
            refused = await client.post(
                "/password-resets/confirm", json={"code": code, "new_password": NEW}
            )
            assert_problem(refused, 422, "invalid_request")
            if code:
                assert str(code) not in refused.text or code == "x"


async def test_a_rejected_password_does_not_use_up_the_code(
    app: FastAPI, client: AsyncClient, code: str
) -> None:
    app.state.services.passwords._strict = True
    for weak in ("short", "password123", LANCELOT["email"]):
        body = assert_problem(await confirm(client, code, weak), 422, "invalid_request")
        assert body["fields"][0]["field"] == "new_password"
    assert (await confirm(client, code)).status_code == 200


async def test_a_password_reset_keeps_the_second_factor(
    app: FastAPI, client: AsyncClient, mailbox: MailServer, lancelot: int, clock: Clock
) -> None:
    assert lancelot
    await enroll(client, LANCELOT, clock)
    await ask(client)
    await deliver(app)
    assert (await confirm(client, mailbox.last_code())).status_code == 200
    assert_problem(await client.post("/token", json=RENEWED), 401, "mfa_required")


async def test_a_user_who_is_locked_out_by_others_logs_in_with_a_new_password(
    app: FastAPI, client: AsyncClient, code: str
) -> None:
    async with client_of(app, "192.0.2.7") as guesser:
        for _ in range(ACCOUNT.allowed):
            await guesser.post("/token", json={**LANCELOT, "password": "guess"})
    assert (await client.post("/token", json=LANCELOT)).status_code == 429
    assert (await confirm(client, code)).status_code == 200
    assert await log_in(client, RENEWED)


async def test_a_user_with_failures_at_a_known_address_logs_in_there_with_a_new_password(
    app: FastAPI, code: str
) -> None:
    async with client_of(app, "192.0.2.7") as home:
        await log_in(home, LANCELOT)
        for _ in range(ACCOUNT_AT_ADDRESS.allowed):
            await home.post("/token", json={**LANCELOT, "password": "forgotten"})
        for number in range(ADDRESS.allowed):
            await home.post("/token", json={"username": f"nobody{number}", "password": "x"})
        assert (await home.post("/token", json=LANCELOT)).status_code == 429
        assert (await confirm(home, code)).status_code == 200
        assert await log_in(home, RENEWED)
        nobody = await home.post("/token", json={"username": "nobody", "password": "x"})
        assert nobody.status_code == 429  # what was failed at against others still counts


@pytest.mark.parametrize("deed", ["password", "email", "disabled", "forced", "removed"])
async def test_what_changes_the_account_voids_its_codes(
    client: AsyncClient, code: str, lancelot: int, deed: str
) -> None:
    own = bearer(await log_in(client, LANCELOT))
    arthurs = bearer(await log_in(client, ARTHUR))
    proof = {"password": LANCELOT["password"]}
    match deed:
        case "password":
            body = {**proof, "new_password": "another"}
            done = await client.post("/me/password", json=body, headers=own)
        case "email":
            body = {**proof, "email": "lake@avalon.example"}
            done = await client.patch("/me", json=body, headers=own)
        case "disabled":
            path = f"/toggle-user-permission/{lancelot}/0"
            done = await client.put(path, headers=arthurs)
        case "forced":
            done = await client.post(f"/users/{lancelot}/password-reset", headers=arthurs)
        case _:
            done = await client.delete(f"/remove-user/{lancelot}", headers=arthurs)
    assert done.status_code == 200, done.text
    assert_problem(await confirm(client, code), 403, "invalid_code")


async def test_a_change_that_was_refused_voids_no_code(
    client: AsyncClient, code: str, lancelot: int
) -> None:
    assert lancelot
    own = bearer(await log_in(client, LANCELOT))
    for method, path, change in [
        ("POST", "/me/password", {"new_password": "another"}),
        ("PATCH", "/me", {"email": "lake@avalon.example"}),
    ]:
        body = {"password": "wrong", **change}
        refused = await client.request(method, path, json=body, headers=own)
        assert_problem(refused, 403, "wrong_password")
    assert (await confirm(client, code)).status_code == 200


async def test_unknown_and_disabled_users_get_the_same_answer_and_no_mail(
    app: FastAPI, client: AsyncClient, mailbox: MailServer, lancelot: int, arthurs_token: str
) -> None:
    known = await ask(client)
    await deliver(app)
    mailbox.messages.clear()
    path = f"/toggle-user-permission/{lancelot}/0"
    await client.put(path, headers=bearer(arthurs_token))
    for email in ("nobody@camelot.example", LANCELOT["email"]):
        answer = await ask(client, email)
        assert (answer.status_code, answer.json()) == (known.status_code, known.json())
        assert answer.headers.keys() == known.headers.keys()
    await deliver(app)
    assert mailbox.messages == []


async def test_the_mail_is_sent_to_the_address_of_the_account_not_to_one_that_folds_alike(
    app: FastAPI, client: AsyncClient, mailbox: MailServer
) -> None:
    await register(client, {**LANCELOT, "email": "Straße@camelot.example"})
    await deliver(app)
    await ask(client, "STRASSE@CAMELOT.example")
    await ask(client, "stra\u017fse@camelot.example")  # a long s
    await deliver(app)
    assert mailbox.recipients == ["Straße@camelot.example"] * 3


async def test_all_accounts_of_an_address_get_a_code_of_their_own(
    app: FastAPI, client: AsyncClient, mailbox: MailServer, arthurs_token: str
) -> None:
    ids = [await register(client, LANCELOT), await register(client, {**LANCELOT, "username": "2"})]
    await deliver(app)
    path = f"/users/{ids[0]}"
    headers = bearer(arthurs_token)
    await client.patch(path, json={"email_verified": True}, headers=headers)
    mailbox.messages.clear()
    await ask(client)
    await deliver(app)
    first, second = mailbox.messages
    assert "account lancelot at" in first.get_content()
    assert f"account #{ids[1]} at" in second.get_content()  # a name that might be an advertisement
    assert (await confirm(client, code_in(second))).json()["user_id"] == ids[1]
    assert (await confirm(client, code_in(first))).json()["user_id"] == ids[0]


@pytest.mark.parametrize(
    ("email", "status"),
    [
        ("x@y.example\r\nBcc: mordred@orkney.example", 422),
        ("lancelot@camelot.example\n", 422),
        (" lancelot@camelot.example", 422),
        ("lancelot@camelot.example\0", 422),
        ("a@b@camelot.example", 422),
        ("=?utf-8?b?eA0KQmNjOiBtb3JkcmVkQG9ya25leS5leGFtcGxl?=@camelot.example", 422),
        ("<lancelot@camelot.example>", 422),
        ("Lancelot <lancelot@camelot.example>", 422),
        ("lancelot@camelot.example, mordred@orkney.example", 422),
        ("lancelot@camelot\u2028.example", 422),
        ("\u202elancelot@camelot.example", 422),
        ("lance\u200blot@camelot.example", 422),
        # An address that nobody has here. Some mail servers take more than the 64 of RFC 5321.
        ("x" * 65 + "@camelot.example", 202),
        ("lancelot+x@camelot.example", 202),
        ("lancelot@camelot.example.orkney.example", 202),
        ("", 422),
        (None, 422),
        (["lancelot@camelot.example"], 422),
    ],
)
@pytest.mark.usefixtures("lancelot")
async def test_tricks_with_addresses_send_no_mail(
    app: FastAPI, client: AsyncClient, mailbox: MailServer, email: Any, status: int
) -> None:
    answer = await client.post("/password-resets", json={"email": email})
    if status == 422:
        assert_problem(answer, 422, "invalid_request")
    assert answer.status_code == status
    await deliver(app)
    assert mailbox.messages == []


async def test_password_reset_requests_are_limited_by_address(
    app: FastAPI, client: AsyncClient, clock: Clock
) -> None:
    async with client_of(app, "192.0.2.7") as flooder:
        for number in range(RESET.allowed):
            assert (await ask(flooder, f"nobody{number}@x.example")).status_code == 202
        assert_problem(await ask(flooder), 429, "too_many_attempts")
        clock.advance(RESET.window)
        assert (await ask(flooder)).status_code == 202
    assert (await ask(client)).status_code == 202


async def test_mails_to_one_address_are_limited(
    app: FastAPI, client: AsyncClient, mailbox: MailServer, lancelot: int, clock: Clock
) -> None:
    assert lancelot
    for _ in range(20):
        assert (await ask(client)).status_code == 202
        await deliver(app)
    assert len(mailbox.messages) == MAILBOX.allowed - 1  # one was to verify the address
    codes = {code_in(message) for message in mailbox.messages}
    assert len(codes) == len(mailbox.messages)
    for _ in range(100):
        clock.advance(timedelta(minutes=14))
        await ask(client)
        await deliver(app)
    assert len(mailbox.messages) < 25


async def test_every_message_counts(
    app: FastAPI, client: AsyncClient, mailbox: MailServer, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("lancelot", "bors", "kay"):
        await register(client, {**LANCELOT, "username": name})
    await ask(client)
    await register(client, GALAHAD)
    await deliver(app)
    assert mailbox.recipients.count(LANCELOT["email"]) == MAILBOX.allowed
    assert mailbox.recipients.count(GALAHAD["email"]) == 1  # whatever was not sent to Lancelot
    (dropped,) = (record for record in caplog.records if record.name == "hourpass.mail")
    assert dropped.message == "Message discarded"
    assert LANCELOT["email"] not in str(vars(dropped))


async def test_queued_reset_requests_are_counted_and_logged_later(
    app: FastAPI, client: AsyncClient, mailbox: MailServer, lancelot: int, clock: Clock
) -> None:
    stopping = asyncio.Event()

    async def end(*_: object) -> None:
        stopping.set()

    for _ in range(MAILBOX.allowed + 3):
        await ask(client)
    state = app.state
    events = Events((*state.services.events.subscribers, Subscriber(end)))
    interrupted = MailWorker(state.database, state.settings, events, clock)
    assert await interrupted.run_once(stopping) == 1
    clock.advance(FIRST_DELAY)
    await deliver(app)
    assert len(mailbox.messages) == MAILBOX.allowed - 1  # one was to verify the address
    query: dict[str, Any] = {"subject_id": lancelot, "action": "password_reset."}
    headers = bearer(await log_in(client, ARTHUR))
    entries = (await client.get("/audit", params=query, headers=headers)).json()["entries"]
    assert len([entry for entry in entries if entry["succeeded"]]) == len(mailbox.messages)
    assert len(entries) == MAILBOX.allowed + 3


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


async def test_a_code_that_is_too_old_is_not_mailed(
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


async def test_a_deleted_code_is_not_mailed(app: FastAPI, clock: Clock) -> None:
    async with app.state.database.session() as session:
        with pytest.raises(InvalidCodeError):
            await text_to_mail(RequestContext(session, clock()), 4711, None, is_first_try=True)


async def test_no_more_than_a_few_codes_are_open(
    app: FastAPI, client: AsyncClient, lancelot: int, clock: Clock
) -> None:
    async with app.state.database.session() as session:
        context = RequestContext(session, clock())
        await begin_write(session)
        issued = [
            await issue(context, Purpose.RESET, user_id=lancelot) for _ in range(MAX_OPEN + 2)
        ]
        await session.commit()
        resets = select(func.count()).where(Code.purpose == "reset")
        assert await session.scalar(resets) == MAX_OPEN
    assert (await confirm(client, issued[1][1])).status_code == 403
    assert (await confirm(client, issued[2][1])).status_code == 200


async def test_codes_that_strangers_ask_for_do_not_displace_that_of_an_administrator(
    app: FastAPI, client: AsyncClient, lancelot: int, arthurs_token: str, clock: Clock
) -> None:
    path = f"/users/{lancelot}/password-reset"
    forced = await client.post(path, headers=bearer(arthurs_token))
    for _ in range(MAX_OPEN + 2):
        clock.advance(timedelta(minutes=1))
        await ask(client)
        await deliver(app)
    assert (await confirm(client, forced.json()["code"])).status_code == 200


async def test_codes_of_other_users_do_not_replace_mine(
    app: FastAPI, client: AsyncClient, mailbox: MailServer, code: str
) -> None:
    """However many they ask for: each as many as its mailbox is sent."""
    for name in ("bors", "kay", "tristan"):
        email = f"{name}@camelot.example"
        await register(client, {**LANCELOT, "username": name, "email": email})
        for _ in range(MAILBOX.allowed):
            await ask(client, email)
    await deliver(app)
    assert len(mailbox.messages) > 1 + MAX_OPEN
    assert (await confirm(client, code)).status_code == 200
    assert await log_in(client, RENEWED)


async def test_accounts_of_others_with_my_address_do_not_prevent_my_code(  # noqa: PLR0917 - fixtures
    app: FastAPI,
    client: AsyncClient,
    mailbox: MailServer,
    arthurs_token: str,
    clock: Clock,
    caplog: pytest.LogCaptureFixture,
) -> None:
    for number in range(MAX_ACCOUNTS):
        await register(client, {**LANCELOT, "username": f"mordred{number}"})
    lancelot = await register(client, LANCELOT)
    path, body = f"/users/{lancelot}", {"email_verified": True}
    await client.patch(path, json=body, headers=bearer(arthurs_token))
    await deliver(app)
    clock.advance(MAILBOX.window)
    mailbox.messages.clear()
    caplog.clear()
    await ask(client)
    await deliver(app)
    assert len(mailbox.messages) == MAX_ACCOUNTS
    assert "Message discarded" not in caplog.messages  # no more than these was looked at
    reset = await confirm(client, code_in(mailbox.messages[0]))
    assert reset.json()["user_id"] == lancelot


async def test_what_voids_the_codes_of_one_user_leaves_the_others(
    client: AsyncClient, code: str
) -> None:
    await register(client, GALAHAD)
    body = {"password": GALAHAD["password"], "new_password": NEW}
    headers = bearer(await log_in(client, GALAHAD))
    assert (await client.post("/me/password", json=body, headers=headers)).status_code == 200
    assert (await confirm(client, code)).status_code == 200


async def test_the_code_of_an_administrator_is_not_counted(
    app: FastAPI, client: AsyncClient, lancelot: int, arthurs_token: str, clock: Clock
) -> None:
    path = f"/users/{lancelot}/password-reset"
    forced = await client.post(path, headers=bearer(arthurs_token))
    for _ in range(MAX_OPEN + 1):
        clock.advance(timedelta(minutes=1))
        await ask(client)
        await deliver(app)
    assert (await confirm(client, forced.json()["code"])).status_code == 200


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


async def test_no_code_is_stored_in_the_clear(app: FastAPI, client: AsyncClient, code: str) -> None:
    await ask(client)
    plain = code.replace("-", "")
    async with app.state.database.session() as session:
        for table in (Code.__table__, OutgoingMail.__table__):
            rows = (await session.execute(select(table))).all()
            assert rows
            assert not any(secret in str(row) for row in rows for secret in (code, plain))


async def test_the_audit_log_names_who_asked_and_who_confirmed(
    client: AsyncClient, code: str, lancelot: int
) -> None:
    await confirm(client, code)
    headers = bearer(await log_in(client, ARTHUR))
    query: dict[str, Any] = {"subject_id": lancelot}
    entries = (await client.get("/audit", params=query, headers=headers)).json()["entries"]
    assert [(e["action"], e["actor_id"], e["address"]) for e in entries[:2]] == [
        ("user.reset_password", lancelot, "127.0.0.1"),
        ("password_reset.request", None, "127.0.0.1"),
    ]


async def test_the_audit_log_names_the_request(
    app: FastAPI, client: AsyncClient, lancelot: int, arthurs_token: str
) -> None:
    await ask(client, **{"X-Request-ID": "the-grail"})
    await ask(client, "nobody@camelot.example")  # another one, meanwhile
    await deliver(app)
    query: dict[str, Any] = {"subject_id": lancelot}
    answer = await client.get("/audit", params=query, headers=bearer(arthurs_token))
    assert answer.json()["entries"][0]["action"] == "password_reset.request"
    assert answer.json()["entries"][0]["request_id"] == "the-grail"


async def test_without_a_mail_server_an_administrator_hands_the_code_out(
    settings: Settings, clock: Clock
) -> None:
    values = {**settings.model_dump(), "smtp_url": None}
    app = create_app(Settings.model_validate(values), clock, clock)
    async with app.router.lifespan_context(app), client_of(app) as client:
        lancelot = await register(client, LANCELOT)
        token = await log_in(client, LANCELOT)
        for email in (LANCELOT["email"], "nobody@camelot.example"):
            assert_problem(await ask(client, email), 403, "mail_unavailable")
        arthurs = bearer(await log_in(client, ARTHUR))
        path = f"/users/{lancelot}/password-reset"
        mailed = await client.post(path, json={"by_mail": True}, headers=arthurs)
        assert_problem(mailed, 403, "mail_unavailable")
        assert await token_holds(client, token)
        forced = await client.post(path, headers=arthurs)
        assert forced.status_code == 200
        assert forced.json()["user_id"] == lancelot
        assert forced.json()["expires_at"] == "2026-11-24T12:00:00Z"
        assert not await token_holds(client, token)
        assert (await client.post("/token", json=LANCELOT)).status_code == 401  # void at once
        assert (await confirm(client, forced.json()["code"])).status_code == 200
        profile = await client.get("/me", headers=bearer(await log_in(client, RENEWED)))
        assert profile.json()["email_verified"] is False  # no mailbox has proved anything


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
    assert await log_in(client, RENEWED)


async def test_no_other_user_can_prevent_the_mail_of_an_administrator(
    app: FastAPI, client: AsyncClient, mailbox: MailServer, lancelot: int, arthurs_token: str
) -> None:
    for _ in range(MAILBOX.allowed + 3):
        await ask(client)
    await deliver(app)
    mailbox.messages.clear()
    headers = bearer(arthurs_token)
    path = f"/users/{lancelot}/password-reset"
    for _ in range(2 * MAILBOX.allowed):
        await client.post(path, json={"by_mail": True}, headers=headers)
        await client.post("/invitations", json={"email": LANCELOT["email"]}, headers=headers)
        await deliver(app)
    subjects = [message["Subject"].partition(" ")[0] for message in mailbox.messages]
    assert subjects == ["Please", "An"] * (2 * MAILBOX.allowed)


async def test_only_administrators_require_a_second_factor_and_only_of_existing_users(
    client: AsyncClient, lancelot: int, arthurs_token: str
) -> None:
    path, headers = f"/users/{lancelot}/password-reset", bearer(arthurs_token)
    assert (await client.post(path)).status_code == 401
    own = await client.post(path, headers=bearer(await log_in(client, LANCELOT)))
    assert_problem(own, 403, "insufficient_scope")
    nobody = await client.post("/users/4711/password-reset", headers=headers)
    assert_problem(nobody, 404, "user_not_found")
    await client.patch(f"/users/{lancelot}", json={"email": ""}, headers=headers)
    homeless = await client.post(path, json={"by_mail": True}, headers=headers)
    body = assert_problem(homeless, 422, "invalid_request")
    assert body["fields"][0]["field"] == "by_mail"
    assert await log_in(client, LANCELOT)  # nothing was done by halves


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


async def test_the_outbox_is_limited(
    app: FastAPI, client: AsyncClient, monkeypatch: pytest.MonkeyPatch, arthurs_token: str
) -> None:
    from app.mail import service

    monkeypatch.setattr(service, "MAX_WAITING", 3)
    assert [(await ask(client)).status_code for _ in range(5)] == [202] * 3 + [503] * 2
    lancelot = await register(client, LANCELOT)  # which is not refused for want of room
    path, headers = f"/users/{lancelot}/password-reset", bearer(arthurs_token)
    forced = await client.post(path, json={"by_mail": True}, headers=headers)
    assert forced.status_code == 200  # nor is what administrators send
    await deliver(app)
    assert (await ask(client)).status_code == 202
