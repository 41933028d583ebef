"""A login with a second factor: by JSON, by form and on the docs page; its tokens and events; and
what administrators cannot do without one."""

import base64
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest
from fastapi import FastAPI
from httpx import AsyncClient, BasicAuth, Response

from app.context import RequestContext
from app.credentials.second_factors.code_checks import BURST
from app.events import Event, Subscriber
from app.http import access_log
from app.security.rate_limits.limits import ACCOUNT
from app.settings import Settings
from tests.support.apps import client_of, started_client
from tests.support.authenticator import (
    STEP,
    Authenticator,
    begin,
    confirm,
    enroll,
    log_in_with,
    token_with,
)
from tests.support.markers import on_sqlite
from tests.support.settings import Clock
from tests.support.users import (
    ARTHUR,
    LANCELOT,
    assert_problem,
    bearer,
    claims_of,
    log_in,
    open_session,
    refresh,
    register,
)

FORM = {"username": LANCELOT["username"], "password": LANCELOT["password"]}


@pytest.fixture
async def lancelots(client: AsyncClient, clock: Clock) -> Authenticator:
    assert await register(client, LANCELOT) == 2
    return await enroll(client, LANCELOT, clock)


async def by_form(client: AsyncClient, **changes: Any) -> Response:
    return await client.post("/token", data={**FORM, **changes})


@on_sqlite
async def test_a_code_comes_from_one_place(
    client: AsyncClient, clock: Clock, lancelots: Authenticator
) -> None:
    # The docs page sends it as a client's secret.
    code = lancelots.code()
    for secret in (f"{code[:3]} {code[3:]}", lancelots.recovery_codes[0]):
        response = await client.post("/token", data=FORM, auth=BasicAuth("", secret))
        assert response.status_code == 200
    clock.advance(STEP)
    code = lancelots.code()
    basic = BasicAuth("", code)
    twice = await client.post("/token", data={**FORM, "otp": code}, auth=basic)
    assert_problem(twice, 400, "invalid_request")
    by_json = await client.post("/token", json=LANCELOT, auth=basic)
    assert_problem(by_json, 401, "mfa_required")
    in_query = await client.post(f"/token?otp={code}", data=FORM)
    assert_problem(in_query, 400, "mfa_required")
    clients_own = await client.post("/token", data=FORM, auth=BasicAuth("notebook", code))
    assert_problem(clients_own, 400, "mfa_required")
    in_body = await by_form(client, client_secret=code)
    assert_problem(in_body, 400, "mfa_required")
    no_code = await client.post("/token", data=FORM, auth=BasicAuth("", "no code"))
    assert_problem(no_code, 400, "invalid_request")
    encoded = base64.b64encode(f":{code}".encode()).decode()
    not_base64 = f"Basic {encoded[:4]}%{encoded[4:]}"
    malformed = ("Basic", "Basic %%%", "Basic /w==", "Basic é", not_base64)
    for garbage in (*malformed, "Bearer x", "Basic Og=="):
        headers = {b"Authorization": garbage.encode()}
        response = await client.post("/token", data=FORM, headers=headers)
        assert_problem(response, 400, "mfa_required")
    # None of these has spent it.
    headers = {b"Authorization": f"Basic  {encoded}".encode()}  # RFC 9110, 11.4 allows the spaces
    assert (await client.post("/token", data=FORM, headers=headers)).status_code == 200


@on_sqlite
async def test_who_is_asked_for_a_code_and_what_it_adds_to_the_tokens(
    client: AsyncClient,
    clock: Clock,
    lancelots: Authenticator,
    arthurs_token: str,
    subtests: pytest.Subtests,
) -> None:
    with subtests.test("the correct password without a code gets mfa_required"):
        body = assert_problem(await client.post("/token", json=LANCELOT), 401, "mfa_required")
        assert "otp" in body["message"]
        response = await by_form(client)
        body = assert_problem(response, 400, "mfa_required")
        assert body["error_description"] == body["message"]
        assert "www-authenticate" not in response.headers
        assert (await by_form(client, otp=lancelots.code())).status_code == 200
    clock.advance(STEP)
    with subtests.test("its tokens and introspection name the methods"):
        sent = {**LANCELOT, "otp": lancelots.code()}
        session = await open_session(client, sent)
        clock.advance(timedelta(minutes=5))
        renewed = await refresh(client, session["refresh_token"])  # without a code
        for token in (session["access_token"], renewed.json()["access_token"]):
            assert claims_of(token)["amr"] == ["pwd", "otp", "mfa"]
            said = await client.post("/introspect", data={"token": token}, headers=bearer(token))
            assert said.json()["amr"] == ["pwd", "otp", "mfa"]
            assert said.json()["auth_time"] == int((clock() - timedelta(minutes=5)).timestamp())
    with subtests.test("a user without a second factor may send a code"):
        assert "amr" not in claims_of(await token_with(client, ARTHUR, "123456"))
    clock.advance(STEP)
    with subtests.test("nobody else can tell which users have a second factor"):
        wrong = {"password": "guinevere"}
        for otp in ({}, {"otp": lancelots.code()}, {"otp": lancelots.recovery_codes[1]}):
            answers = [
                await by_form(client, **wrong, **otp, username=name)
                for name in ("mordred", "arthur", "lancelot")
            ]
            assert len({(answer.status_code, answer.text) for answer in answers}) == 1
        await client.put("/toggle-user-permission/2/0", headers=bearer(arthurs_token))
        assert_problem(await by_form(client), 400, "invalid_grant")
        assert_problem(await by_form(client, otp=lancelots.code()), 400, "invalid_grant")


@pytest.fixture
async def elsewhere(app: FastAPI) -> AsyncIterator[AsyncClient]:
    """A client at an address where Lancelot has never logged in."""
    async with client_of(app, "192.0.2.7") as client:
        yield client


@on_sqlite
async def test_failed_logins_and_rejected_codes_are_counted_apart(
    app: FastAPI,
    elsewhere: AsyncClient,
    clock: Clock,
    lancelots: Authenticator,
    subtests: pytest.Subtests,
) -> None:
    # Knowing only the password does not help: earlier failures still count.
    with subtests.test("password and then code log in while the account is throttled"):
        wrong = {**LANCELOT, "password": "guinevere"}
        for _ in range(ACCOUNT.allowed + 2):
            assert_problem(await elsewhere.post("/token", json=wrong), 401, "invalid_grant")
            clock.advance(ACCOUNT.max_delay)
        for _ in range(3):
            assert_problem(await elsewhere.post("/token", json=LANCELOT), 401, "mfa_required")
        assert (await elsewhere.post("/token", json=wrong)).status_code == 401
        assert (await elsewhere.post("/token", json=LANCELOT)).headers["Retry-After"] == "8"
        clock.advance(ACCOUNT.max_delay)
        assert_problem(await elsewhere.post("/token", json=LANCELOT), 401, "mfa_required")
        assert (await log_in_with(elsewhere, LANCELOT, lancelots.code())).status_code == 200
    clock.advance(timedelta(days=30))
    with subtests.test("a rejection for too many codes does not count as a failed login"):
        async with client_of(app, "192.0.2.8") as another:
            for _ in range(BURST):
                await log_in_with(another, LANCELOT, lancelots.wrong_code())
            clock.advance(ACCOUNT.max_delay)
            for _ in range(3):
                refused = await log_in_with(another, LANCELOT, lancelots.code())
                assert_problem(refused, 429, "too_many_codes")
            assert await token_with(another, LANCELOT, lancelots.recovery_codes[0])


@pytest.fixture
async def events(app: FastAPI) -> AsyncIterator[list[tuple[Any, ...]]]:
    seen: list[tuple[Any, ...]] = []

    async def listen(_: RequestContext, event: Event) -> None:
        reason = event.details.get("reason")
        seen.append((event.action, event.subject_id, event.succeeded, reason))

    app.state.services.events.subscribers = (Subscriber(listen),)
    yield seen
    app.state.services.events.subscribers = ()


async def test_each_step_publishes_an_event_and_a_password_alone_is_not_a_login(
    client: AsyncClient, lancelots: Authenticator, events: list[tuple[Any, ...]]
) -> None:
    await client.post("/token", json=LANCELOT)
    await log_in_with(client, LANCELOT, lancelots.wrong_code())
    await log_in_with(client, LANCELOT, lancelots.code())
    await log_in_with(client, LANCELOT, lancelots.recovery_codes[0])
    await log_in_with(client, {**LANCELOT, "password": "guinevere"}, lancelots.code())
    for _ in range(5):
        await log_in_with(client, LANCELOT, lancelots.wrong_code())
    assert events == [
        ("second_factor.required", 2, True, None),
        ("login", 2, False, "wrong code"),
        ("login", 2, True, None),
        ("second_factor.recover", 2, True, None),
        ("login", 2, True, None),
        ("login", 2, False, None),
        *[("login", 2, False, "wrong code")] * 4,
        ("login", 2, False, "too many wrong codes"),
    ]


@on_sqlite
async def test_changes_to_the_second_factor_publish_events(
    client: AsyncClient, clock: Clock, arthurs_token: str, events: list[tuple[Any, ...]]
) -> None:
    await register(client, LANCELOT)
    authenticator, token = await begin(client, LANCELOT, clock)
    unproved = {"password": "guinevere"}
    await client.post("/me/second-factor", json=unproved, headers=bearer(token))
    await confirm(client, token, authenticator.wrong_code())
    await confirm(client, token, authenticator.code())
    headers = bearer(await token_with(client, LANCELOT, authenticator.next_code()))
    proof = {**LANCELOT, "otp": authenticator.next_code()}
    path = "/me/second-factor"
    wrong = {**proof, "password": "guinevere"}
    await client.post(f"{path}/recovery-codes", json=wrong, headers=headers)
    await client.post(f"{path}/recovery-codes", json=proof, headers=headers)
    proof["otp"] = authenticator.next_code()
    await client.request("DELETE", path, json=proof, headers=headers)
    await enroll(client, LANCELOT, clock)
    await client.delete("/users/2/second-factor", headers=bearer(arthurs_token))
    done = [
        (action, succeeded, reason)
        for action, subject, succeeded, reason in events
        if action.startswith("second_factor.") and subject == 2
    ]
    assert done == [
        ("second_factor.enrol", True, None),
        ("second_factor.enrol", False, "wrong password"),
        ("second_factor.confirm", False, "wrong code"),
        ("second_factor.confirm", True, None),
        ("second_factor.renew_codes", False, "wrong password"),
        ("second_factor.renew_codes", True, None),
        ("second_factor.remove", True, None),
        ("second_factor.enrol", True, None),
        ("second_factor.confirm", True, None),
        ("second_factor.reset", True, None),
    ]


@on_sqlite
async def test_an_administrator_without_a_second_factor_can_only_set_one_up(
    settings: Settings, clock: Clock
) -> None:
    """Also the first administrator, from FIRST_ADMIN_USERNAME."""
    required = settings.model_copy(update={"admin_second_factor": "required"})
    async with started_client(required, clock) as client:
        await register(client, LANCELOT)
        refused = await client.post("/token", json={**ARTHUR, "scope": "admin"})
        assert_problem(refused, 400, "invalid_scope")
        answer = (await client.post("/token", json=ARTHUR)).json()
        assert "scope" not in answer
        path = "/users/2/sessions"
        response = await client.get(path, headers=bearer(answer["token"]))
        body = assert_problem(response, 403, "insufficient_scope")
        assert "second factor" in body["message"]
        authenticator = await enroll(client, ARTHUR, clock)
        token = await token_with(client, ARTHUR, authenticator.code())
        assert (await client.get(path, headers=bearer(token))).status_code == 200
        assert await log_in(client, LANCELOT)  # not an administrator


@on_sqlite
async def test_sessions_from_before_it_was_required_lose_admin(
    settings: Settings, clock: Clock
) -> None:
    async with started_client(settings, clock) as client:
        session = await open_session(client, ARTHUR)
        assert session["scope"] == "admin offline_access"
    required = settings.model_copy(update={"admin_second_factor": "required"})
    async with started_client(required, clock) as client:
        answer = (await refresh(client, session["refresh_token"])).json()
        assert answer["scope"] == "offline_access"


@on_sqlite
async def test_codes_and_secrets_are_not_logged(
    client: AsyncClient,
    lancelots: Authenticator,
    capfd: pytest.CaptureFixture[str],
) -> None:
    codes = [lancelots.wrong_code(), lancelots.code(), lancelots.recovery_codes[0]]
    for code in codes:
        await log_in_with(client, LANCELOT, code)
    await client.post("/token", data=FORM, auth=BasicAuth("", codes[1]))
    access_log.request_log.flush()
    captured = capfd.readouterr()
    assert '"/token"' in captured.err
    for secret in (*codes, lancelots.parameters["secret"]):
        assert secret not in captured.err + captured.out
