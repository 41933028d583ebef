"""A user sets up a second factor, and removes it. Both require the password and revoke all earlier
tokens."""

from datetime import timedelta
from urllib.parse import unquote

import pytest
from fastapi import FastAPI
from httpx import AsyncClient
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from app.context import RequestContext
from app.credentials.second_factors import codes, service
from app.credentials.second_factors.models import RecoveryCode, SecondFactor
from app.credentials.second_factors.service import RECOVERY_CODES
from app.database.engine import begin_write
from app.maintenance.retention.service import Retention
from app.settings import Settings
from app.users.service import Users
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

PASSWORD = LANCELOT["password"]
ENROLLMENT_PERIOD = timedelta(hours=1)


async def state(client: AsyncClient, token: str) -> tuple[bool, int]:
    response = await client.get("/me/second-factor", headers=bearer(token))
    assert response.status_code == 200, response.text
    return response.json()["enabled"], response.json()["recovery_codes_left"]


@on_sqlite
async def test_until_it_is_confirmed_nothing_changes(
    client: AsyncClient, clock: Clock, subtests: pytest.Subtests
) -> None:
    await register(client, LANCELOT)
    with subtests.test("a user without one has none to change"):
        headers = bearer(await log_in(client, LANCELOT))
        sent = {"password": PASSWORD, "otp": "123456"}
        for method, path in (("DELETE", ""), ("POST", "/confirm"), ("POST", "/recovery-codes")):
            url = f"/me/second-factor{path}"
            response = await client.request(method, url, json=sent, headers=headers)
            assert_problem(response, 404, "second_factor_not_found")
        clock.advance(STEP)
        assert (await log_in_with(client, LANCELOT, "123456")).status_code == 200
    with subtests.test("a stolen token cannot set one up"):
        sent = {"password": "guinevere"}
        response = await client.post("/me/second-factor", json=sent, headers=headers)
        assert_problem(response, 403, "wrong_password")
        assert "guinevere" not in response.text
        assert_problem(await client.post("/me/second-factor", json=sent), 401, "missing_token")
    first, token = await begin(client, LANCELOT, clock)
    assert first.label.endswith(":lancelot")
    with subtests.test("a recovery code cannot confirm it and writes no audit entry"):
        # None has been issued yet. It is not counted, so the audit log would grow without an end.
        response = await confirm(client, token, "MFRG-G2DF-MZTW-Q2LK-NBSW-Y3DP")
        assert_problem(response, 403, "wrong_code")
        entries = (await client.get("/me/audit", headers=bearer(token))).json()["entries"]
        assert entries[0]["action"] == "second_factor.enrol"
    with subtests.test("it is not required"):
        assert await state(client, token) == (False, 0)
        assert await token_is_valid(client, await log_in(client, LANCELOT))
    with subtests.test("it cannot be changed"):
        sent = {"password": PASSWORD, "otp": first.code()}
        for method, path in [("POST", "/recovery-codes"), ("DELETE", "")]:
            url = f"/me/second-factor{path}"
            response = await client.request(method, url, json=sent, headers=bearer(token))
            assert_problem(response, 404, "second_factor_not_found")
    with subtests.test("a new secret replaces it"):
        second, token = await begin(client, LANCELOT, clock)
        assert first.parameters["secret"] != second.parameters["secret"]
        assert_problem(await confirm(client, token, first.code()), 403, "wrong_code")
        assert (await confirm(client, token, second.code())).status_code == 200


async def test_a_second_factor_from_its_confirmation_to_the_removal_of_the_user(
    client: AsyncClient,
    app: FastAPI,
    users: Users,
    context: RequestContext,
    clock: Clock,
    arthurs_token: str,
    subtests: pytest.Subtests,
) -> None:
    user_id = await register(client, LANCELOT)
    session = await open_session(client, LANCELOT)
    with subtests.test("once confirmed, it is required, and all earlier tokens are revoked"):
        authenticator, token = await begin(client, LANCELOT, clock)
        response = await confirm(client, token, authenticator.code())
        assert response.headers["cache-control"] == "no-store"
        authenticator.recovery_codes = response.json()["recovery_codes"]
        assert len(set(authenticator.recovery_codes)) == RECOVERY_CODES == 10
        for old in (token, session["access_token"]):
            assert not await token_is_valid(client, old)
        assert_problem(await refresh(client, session["refresh_token"]), 400, "invalid_grant")
        assert_problem(await client.post("/token", json=LANCELOT), 401, "mfa_required")
        token = await token_with(client, LANCELOT, authenticator.next_code())
        assert await state(client, token) == (True, 10)
    with subtests.test("new recovery codes replace the old ones"):
        old = authenticator.recovery_codes
        assert (await log_in_with(client, LANCELOT, old[0])).status_code == 200
        assert await state(client, token) == (True, 9)
        sent = {"password": PASSWORD, "otp": authenticator.next_code()}
        path = "/me/second-factor/recovery-codes"
        response = await client.post(path, json=sent, headers=bearer(token))
        new = response.json()["recovery_codes"]
        assert await state(client, token) == (True, 10)
        assert set(new).isdisjoint(old)
        assert_problem(await log_in_with(client, LANCELOT, old[1]), 401, "invalid_grant")
        assert (await log_in_with(client, LANCELOT, new[1])).status_code == 200
        authenticator.recovery_codes = new
    for by_recovery_code in (False, True):
        with subtests.test("it is removed by password and code", by_recovery_code=by_recovery_code):
            otp = authenticator.recovery_codes[0] if by_recovery_code else authenticator.next_code()
            response = await client.request(
                "DELETE",
                "/me/second-factor",
                json={"password": PASSWORD, "otp": otp},
                headers=bearer(token),
            )
            assert response.json() == {"message": "Second factor removed"}
            assert not await token_is_valid(client, token)
            assert await state(client, await log_in(client, LANCELOT)) == (False, 0)
        authenticator = await enroll(client, LANCELOT, clock)
        token = await token_with(client, LANCELOT, authenticator.code())
    with subtests.test("a new password does not remove it"):
        await users.change_password(context, user_id, "joyous gard")
        answer = await client.post("/token", json={**LANCELOT, "password": "joyous gard"})
        assert_problem(answer, 401, "mfa_required")
    with subtests.test("removing the user removes it"):
        await client.delete(f"/remove-user/{user_id}", headers=bearer(arthurs_token))
        async with app.state.database.session() as session:
            assert (await session.scalars(select(SecondFactor))).all() == []
            assert (await session.scalars(select(RecoveryCode))).all() == []


@on_sqlite
async def test_a_confirmed_second_factor_stays_unless_its_user_or_an_administrator_removes_it(
    client: AsyncClient, clock: Clock, arthurs_token: str, subtests: pytest.Subtests
) -> None:
    user_id = await register(client, LANCELOT)
    authenticator = await enroll(client, LANCELOT, clock)
    token = await token_with(client, LANCELOT, authenticator.code())
    with subtests.test("it is not replaced"):
        response = await client.post("/me/second-factor", json=LANCELOT, headers=bearer(token))
        assert_problem(response, 409, "second_factor_exists")
        sent = {"otp": authenticator.next_code()}
        response = await client.post("/me/second-factor/confirm", json=sent, headers=bearer(token))
        assert_problem(response, 404, "second_factor_not_found")
        assert (await log_in_with(client, LANCELOT, authenticator.code())).status_code == 200
    clock.advance(STEP)
    code = authenticator.code()
    wrong = authenticator.wrong_code()
    for method, path in (("DELETE", ""), ("POST", "/recovery-codes")):
        for sent, status, error in (
            ({"password": "guinevere", "otp": code}, 403, "wrong_password"),
            ({"password": PASSWORD, "otp": wrong}, 403, "wrong_code"),
            ({"password": PASSWORD}, 422, "invalid_request"),
            ({"otp": code}, 422, "invalid_request"),
        ):
            with subtests.test(f"it stays without password or code: {method} {path}", error=error):
                response = await client.request(
                    method, f"/me/second-factor{path}", json=sent, headers=bearer(token)
                )
                assert_problem(response, status, error)
    assert await state(client, token) == (True, 10)
    # A correct code is not used up beside a wrong password.
    assert (await log_in_with(client, LANCELOT, code)).status_code == 200
    with subtests.test("an administrator removes that of another user"):
        path = f"/users/{user_id}/second-factor"
        assert_problem(await client.delete(path, headers=bearer(token)), 403, "insufficient_scope")
        response = await client.delete(path, headers=bearer(arthurs_token))
        assert response.json() == {"message": "Second factor removed"}
        assert not await token_is_valid(client, token)
        assert await token_is_valid(client, await log_in(client, LANCELOT))
        for another, error in (
            (path, "second_factor_not_found"),
            ("/users/77/second-factor", "user_not_found"),
        ):
            response = await client.delete(another, headers=bearer(arthurs_token))
            assert_problem(response, 404, error)
    with subtests.test("an administrator can have one"):
        authenticator = await enroll(client, ARTHUR, clock)
        assert_problem(await client.post("/token", json=ARTHUR), 401, "mfa_required")
        answer = (await log_in_with(client, ARTHUR, authenticator.code())).json()
        assert answer["scope"] == "admin"
        assert timedelta(seconds=answer["expires_in"]) == timedelta(hours=1)


async def test_an_unconfirmed_second_factor_expires_and_is_deleted(
    client: AsyncClient, app: FastAPI, settings: Settings, clock: Clock
) -> None:
    await register(client, LANCELOT)
    await register(client, GALAHAD)
    await enroll(client, GALAHAD, clock)
    authenticator, _ = await begin(client, LANCELOT, clock)
    clock.advance(ENROLLMENT_PERIOD)
    token = await log_in(client, LANCELOT)
    response = await confirm(client, token, authenticator.code())
    assert_problem(response, 404, "second_factor_not_found")
    house = Retention(app.state.database, settings)
    counts = []
    for _ in range(2):
        async with app.state.database.session() as session:
            counts.append(len((await session.scalars(select(SecondFactor))).all()))
        clock.advance(ENROLLMENT_PERIOD)
        assert await house.run_once()
    async with app.state.database.session() as session:
        (left,) = (await session.scalars(select(SecondFactor))).all()
    assert left.confirmed_at is not None
    assert counts == [2, 1]


@on_sqlite
async def test_a_disabled_user_changes_nothing_with_a_request_in_progress(
    client: AsyncClient, users: Users, context: RequestContext, clock: Clock
) -> None:
    for person, is_confirmed, requests in (
        (LANCELOT, False, (("POST", ""), ("POST", "/confirm"))),
        (GALAHAD, True, (("POST", "/recovery-codes"), ("DELETE", ""))),
    ):
        user_id = await register(client, person)
        if is_confirmed:
            authenticator = await enroll(client, person, clock)
        else:
            authenticator, _ = await begin(client, person, clock)
        for method, path in requests:
            login = {**person, "otp": authenticator.next_code()} if is_confirmed else person
            token = await log_in(client, login)

            async def begin_late(session: AsyncSession, user_id: int = user_id) -> None:
                await users.revoke_tokens(context, user_id)
                await begin_write(session)

            sent = {"password": person["password"], "otp": authenticator.next_code()}
            with pytest.MonkeyPatch.context() as meanwhile:
                meanwhile.setattr(service, "begin_write", begin_late)
                late = await client.request(
                    method, f"/me/second-factor{path}", json=sent, headers=bearer(token)
                )
            assert_problem(late, 401, "invalid_token")


def test_the_uri_is_correct_for_any_names(clock: Clock, subtests: pytest.Subtests) -> None:
    for service_name, username, label in (
        ("The Round\r\nTable", "lancelot", "The Round\r\nTable:lancelot"),
        ("The Round Table + 1/2", "bors", "The Round Table + 1/2:bors"),
        ("x", "a?secret=AAAA&issuer=bank#", "x:a?secret=AAAA&issuer=bank#"),
        ("x:y", "bank:lancelot", "x-y:bank-lancelot"),
        ("x", "../../hotp/x%0d%0a", "x:../../hotp/x%0d%0a"),
        ("x", "Лáнцелот 🗡", "x:Лáнцелот 🗡"),
    ):
        with subtests.test(label):
            uri = codes.uri(codes.new_secret(), username, service_name)
            authenticator = Authenticator(uri, clock)
            assert uri.isascii()
            assert uri.isprintable()
            assert " " not in uri
            assert uri.count("?") == 1
            assert "#" not in uri
            assert "+" not in uri  # which apps show as it is (RFC 3986)
            assert (
                authenticator.label.count("/") == 1
            )  # some apps read only what follows the last one
            assert authenticator.label.count(":") == 1
            assert "%3A" not in authenticator.label
            assert unquote(authenticator.label) == f"/{label}"
            secret = authenticator.parameters.pop("secret")
            assert len(secret) == 32
            assert authenticator.parameters == {
                "issuer": label.partition(":")[0],
                "algorithm": "SHA1",
                "digits": "6",
                "period": "30",
            }
