"""Revocations of one token, of a session or of all tokens of a user, and their entries in the feed
for APIs that verify tokens themselves."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from fastapi import FastAPI
from httpx import AsyncClient, Response

from app.context import RequestContext
from app.database.engine import Database
from app.maintenance.retention.service import Retention
from app.settings import Settings
from app.users.service import Users
from tests.support.apps import started_client
from tests.support.markers import on_sqlite
from tests.support.settings import Clock, make_settings
from tests.support.users import (
    ARTHUR,
    LANCELOT,
    assert_problem,
    bearer,
    becomes_invalid,
    claims_of,
    log_in,
    open_session,
    refresh,
    register,
    revoked,
    token_is_valid,
    user_revocation,
)


async def revoke(client: AsyncClient, token: str, *, is_valid: bool = True, **further: str) -> None:
    """Gets 200 for an invalid token too (RFC 7009, 2.2), but then `revoked` is false."""
    response = await client.post("/revoke", data={"token": token, **further})
    assert response.status_code == 200, response.text
    body = response.json()
    assert body["revoked"] is is_valid
    assert (body["message"] == "Token revoked") is is_valid
    assert response.headers["cache-control"] == "no-store"


async def test_all_tokens_of_a_user_are_revoked(
    client: AsyncClient,
    users: Users,
    context: RequestContext,
    arthurs_token: str,
    subtests: pytest.Subtests,
) -> None:
    by_arthur = bearer(arthurs_token)
    person = dict(LANCELOT)
    user_id = await register(client, person)
    for number, case in enumerate(
        (
            "when the user logs out everywhere",
            "when an administrator logs the user out",
            "when the password changes",
            "when the scopes change",
            "when the user is deleted",
            "when the user is disabled",
        )
    ):
        if case == "when the user is disabled":  # a new one
            user_id = await register(client, person)
        tokens = [await log_in(client, person) for _ in range(2)]
        session = await open_session(client, person)
        all_revoked = {"message": "All tokens revoked", "user_id": user_id}
        with subtests.test(case):
            match number:
                case 0:
                    path, headers = "/me/logout-everywhere", bearer(tokens[0])
                    response = await client.post(path, headers=headers)
                    assert response.json() == all_revoked
                case 1:
                    path = f"/users/{user_id}/revoke-tokens"
                    response = await client.post(path, headers=by_arthur)
                    assert response.json() == all_revoked
                case 2:
                    person["password"] = "lady of the lake"
                    await users.change_password(context, user_id, person["password"])
                case 3:
                    await users.set_scopes(context, user_id, {"introspect"})
                case 4:
                    path = f"/remove-user/{user_id}"
                    assert (await client.delete(path, headers=by_arthur)).status_code == 200
                case _:
                    path = f"/toggle-user-permission/{user_id}/0"
                    assert (await client.put(path, headers=by_arthur)).status_code == 200
            for token in (*tokens, session["access_token"]):
                assert not await token_is_valid(client, token)
            assert_problem(await refresh(client, session["refresh_token"]), 400, "invalid_grant")
            assert await token_is_valid(client, arthurs_token)
            entries = (await client.get("/revocations")).json()["revocations"]
            assert len(entries) == number + 1
            assert entries[-1]["value"] == user_revocation(tokens[0])
            # By the database's clock: a day longer than any token can be valid, whatever a host's
            # clock is.
            kept_for = datetime.fromisoformat(entries[-1]["expires_at"]) - datetime.now(UTC)
            assert timedelta(hours=25) < kept_for <= timedelta(hours=25, minutes=1)


async def test_each_revocation_names_the_token_version_that_it_revokes(
    client: AsyncClient, arthurs_token: str
) -> None:
    user_id = await register(client, LANCELOT)
    ended = []
    for _ in range(3):
        token = await log_in(client, LANCELOT)
        await client.post("/me/logout-everywhere", headers=bearer(token))
        ended.append(user_revocation(token))
    assert await revoked(client) == ended
    assert len(set(ended)) == 3
    token = await log_in(client, LANCELOT)
    await client.delete(f"/remove-user/{user_id}", headers=bearer(arthurs_token))
    assert not await token_is_valid(client, token)
    assert (await revoked(client))[-1] == user_revocation(token)


@on_sqlite
async def test_what_is_revoked_and_what_is_not(
    client: AsyncClient, clock: Clock, arthurs_token: str, subtests: pytest.Subtests
) -> None:
    user_id = await register(client, LANCELOT)
    token = await log_in(client, LANCELOT)
    with subtests.test("changes that revoke nothing are not in the feed"):
        enable = f"/toggle-user-permission/{user_id}/1"
        await client.put(enable, headers=bearer(arthurs_token))
        for method, path in [
            ("PUT", "/toggle-user-permission/4711/0"),
            ("DELETE", "/remove-user/4711"),
            ("POST", "/users/4711/revoke-tokens"),
        ]:
            response = await client.request(method, path, headers=bearer(arthurs_token))
            assert_problem(response, 404, "user_not_found")
        assert await revoked(client) == []
        assert await token_is_valid(client, token)
    with subtests.test("an administrator's revocation of another user's tokens"):

        async def revoke_all(user_id: int, **headers: str) -> Response:
            return await client.post(f"/users/{user_id}/revoke-tokens", headers=headers)

        assert_problem(await revoke_all(user_id), 401, "missing_token")
        assert_problem(await revoke_all(user_id, **bearer(token)), 403, "insufficient_scope")
        assert_problem(await revoke_all(4711, **bearer(arthurs_token)), 404, "user_not_found")
        assert await token_is_valid(client, token)
        response = await revoke_all(user_id, **bearer(arthurs_token))
        assert response.status_code == 200
        assert_problem(await revoke_all(user_id, **bearer(token)), 401, "invalid_token")
        assert_problem(await client.post("/me/logout-everywhere"), 401, "missing_token")
    with subtests.test("of two tokens of one second only the older"):
        before = await log_in(client, LANCELOT)
        await client.post("/me/logout-everywhere", headers=bearer(before))
        after = await log_in(client, LANCELOT)
        assert claims_of(before)["iat"] == claims_of(after)["iat"]
        assert not await token_is_valid(client, before)
        assert await token_is_valid(client, after)
    with subtests.test("an invalid or expired token, without an error"):
        entries = await revoked(client)
        expired = await log_in(client, LANCELOT)
        clock.advance(timedelta(minutes=60))
        session = await open_session(client, LANCELOT)
        token = await log_in(client, LANCELOT)
        unknown = f"hpr_{'0' * 32}_{'0' * 64}"
        for junk in ("garbage", "hpr_", "a" * 5_000, "é\0", expired, unknown, f"Bearer {token}"):
            await revoke(client, junk, is_valid=False)
        assert await revoked(client) == entries
        assert (await refresh(client, session["refresh_token"])).status_code == 200
        await revoke(client, f" {token}\r\n")
        await revoke(client, token, is_valid=False)
        assert len(await revoked(client)) == len(entries) + 1
    with subtests.test("a form with one token"):
        headers = {"Content-Type": "application/x-www-form-urlencoded"}
        bodies: list[dict[str, Any]] = [{}, {"token": ""}, {"token": ["one", "two"]}]
        for body in bodies:
            response = await client.post("/revoke", data=body, headers=headers)
            problem = assert_problem(response, 400, "invalid_request")
            assert problem["error_description"] == problem["message"]
        response = await client.post("/revoke", json={"token": "garbage"})
        assert_problem(response, 415, "unsupported_media_type")
        assert_problem(await client.post("/revoke"), 415, "unsupported_media_type")


async def test_revoking_an_access_token_revokes_no_other(client: AsyncClient) -> None:
    await register(client, LANCELOT)
    token, other = await log_in(client, LANCELOT), await log_in(client, LANCELOT)
    session = await open_session(client, LANCELOT)
    await revoke(client, token, token_type_hint="access_token")
    await revoke(client, session["access_token"], token_type_hint="a hint that misleads")
    assert not await token_is_valid(client, token)
    assert not await token_is_valid(client, session["access_token"])
    assert await token_is_valid(client, other)
    renewed = (await refresh(client, session["refresh_token"])).json()
    assert await token_is_valid(client, renewed["access_token"])
    ended = [token, session["access_token"]]
    assert await revoked(client) == [f"jti:{claims_of(token)['jti']}" for token in ended]


async def test_revoking_a_refresh_token_revokes_its_session(
    client: AsyncClient, clock: Clock, subtests: pytest.Subtests
) -> None:
    """Also with a refresh token that was used before: a client that has lost the newest one wants
    to log out, and using the old one would revoke the session as well."""
    await register(client, LANCELOT)
    entries: list[str] = []
    for refreshes in (0, 1, 2):
        with subtests.test(refreshes=refreshes):
            session, other = [await open_session(client, LANCELOT) for _ in range(2)]
            access_tokens, newest = [session["access_token"]], session
            for _ in range(refreshes):
                newest = (await refresh(client, newest["refresh_token"])).json()
                access_tokens.append(newest["access_token"])
                clock.advance(timedelta(minutes=5))
            await revoke(client, session["refresh_token"])
            for token in access_tokens:
                assert not await token_is_valid(client, token)
            assert_problem(await refresh(client, newest["refresh_token"]), 400, "invalid_grant")
            assert await token_is_valid(client, other["access_token"])
            assert (await refresh(client, other["refresh_token"])).status_code == 200
            entries.append(f"sid:{claims_of(session['access_token'])['sid']}")
            assert await revoked(client) == entries
            await revoke(client, session["refresh_token"], is_valid=False)


async def test_a_revocation_applies_to_every_instance_and_after_a_restart(
    app: FastAPI, client: AsyncClient
) -> None:
    await register(client, LANCELOT)
    token = await log_in(client, LANCELOT)
    administrators = await log_in(client, ARTHUR)
    async with started_client(app.state.settings, app.state.clock) as there:
        await revoke(client, token)
        assert not await token_is_valid(client, token)
        assert await becomes_invalid(there, token)
        await there.post("/me/logout-everywhere", headers=bearer(administrators))
        assert not await token_is_valid(there, administrators)
        assert await becomes_invalid(client, administrators)
    async with started_client(app.state.settings, app.state.clock) as restarted:
        assert not await token_is_valid(restarted, token)


@on_sqlite
async def test_a_revoked_token_stays_revoked_after_the_lifetime_was_shortened(
    settings: Settings, clock: Clock
) -> None:
    async with started_client(
        make_settings(settings.database_url, token_minutes=120), clock
    ) as client:
        await register(client, LANCELOT)
        token = await log_in(client, LANCELOT)
    shorter = make_settings(settings.database_url, token_minutes=10)
    async with started_client(shorter, clock) as client:
        await revoke(client, token, is_valid=False)
        assert not await token_is_valid(client, token)
    clock.advance(timedelta(minutes=15))
    database = Database(shorter, clock)
    assert await Retention(database, shorter).run_once()
    await database.close()
    async with started_client(shorter, clock) as client:
        assert not await token_is_valid(client, token)
