"""Tokens die when they should: one of them, one session's, or all of a user's; and every such deed
is in the feed, for the APIs that verify tokens themselves."""

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta

import pytest
from fastapi import FastAPI
from httpx import AsyncClient, Response

from app.context import RequestContext
from app.database.engine import Database
from app.retention.service import Retention
from app.settings import Settings
from app.users.service import Users
from tests.support.apps import started_client
from tests.support.markers import on_sqlite
from tests.support.settings import Clock, make_settings
from tests.support.users import (
    ARTHUR,
    LANCELOT,
    all_tokens_like,
    assert_problem,
    bearer,
    comes_to_an_end,
    log_in,
    open_session,
    register,
    renew,
    revoked,
    said_in,
    token_holds,
)

NEW_PASSWORD = "lady of the lake"


async def revoke(client: AsyncClient, token: str, *, is_valid: bool = True, **further: str) -> None:
    """Succeeds for an invalid token too (RFC 7009, 2.2), but then the answer claims nothing."""
    response = await client.post("/revoke", data={"token": token, **further})
    assert response.status_code == 200, response.text
    body = response.json()
    assert body["revoked"] is is_valid
    assert (body["message"] == "Token revoked") is is_valid
    assert response.headers["cache-control"] == "no-store"


class Endings:
    """What ends all tokens of Lancelot."""

    def __init__(
        self,
        client: AsyncClient,
        users: Users,
        context: RequestContext,
        arthurs_token: str,
    ) -> None:
        self._client = client
        self._users = users
        self._context = context
        self._by_arthur = bearer(arthurs_token)

    async def logs_out_everywhere(self, lancelot: int, token: str) -> None:
        response = await self._client.post("/me/logout-everywhere", headers=bearer(token))
        assert response.json() == {"message": "All tokens revoked", "user_id": lancelot}

    async def is_logged_out_by_an_administrator(self, lancelot: int, _: str) -> None:
        path = f"/users/{lancelot}/revoke-tokens"
        response = await self._client.post(path, headers=self._by_arthur)
        assert response.json() == {"message": "All tokens revoked", "user_id": lancelot}

    async def is_disabled(self, lancelot: int, _: str) -> None:
        path = f"/toggle-user-permission/{lancelot}/0"
        assert (await self._client.put(path, headers=self._by_arthur)).status_code == 200

    async def is_removed(self, lancelot: int, _: str) -> None:
        path = f"/remove-user/{lancelot}"
        assert (await self._client.delete(path, headers=self._by_arthur)).status_code == 200

    async def changes_the_password(self, lancelot: int, _: str) -> None:
        await self._users.change_password(self._context, lancelot, NEW_PASSWORD)

    async def is_granted_other_scopes(self, lancelot: int, _: str) -> None:
        await self._users.set_scopes(self._context, lancelot, {"introspect"})


@pytest.fixture
def endings(
    client: AsyncClient, users: Users, context: RequestContext, arthurs_token: str
) -> Endings:
    return Endings(client, users, context, arthurs_token)


End = Callable[[Endings, int, str], Awaitable[None]]


@pytest.mark.parametrize(
    "end",
    [end for name, end in vars(Endings).items() if not name.startswith("_")],
    ids=[name for name in vars(Endings) if not name.startswith("_")],
)
async def test_all_tokens_of_a_user_end_when_the_user(
    end: End, endings: Endings, client: AsyncClient, arthurs_token: str
) -> None:
    lancelot = await register(client, LANCELOT)
    tokens = [await log_in(client, LANCELOT) for _ in range(2)]
    session = await open_session(client, LANCELOT)
    await end(endings, lancelot, tokens[0])
    for token in (*tokens, session["access_token"]):
        assert not await token_holds(client, token)
    assert_problem(await renew(client, session["refresh_token"]), 400, "invalid_grant")
    assert await token_holds(client, arthurs_token)
    (entry,) = (await client.get("/revocations")).json()["revocations"]
    assert entry["value"] == all_tokens_like(tokens[0])
    # By the database's clock: a day longer than any token can be valid, whatever a host's clock is.
    kept_for = datetime.fromisoformat(entry["expires_at"]) - datetime.now(UTC)
    assert timedelta(hours=25) < kept_for <= timedelta(hours=25, minutes=1)


async def test_each_later_revocation_names_the_epoch_that_it_ends(
    client: AsyncClient, arthurs_token: str
) -> None:
    user_id = await register(client, LANCELOT)
    ended = []
    for _ in range(3):
        token = await log_in(client, LANCELOT)
        await client.post("/me/logout-everywhere", headers=bearer(token))
        ended.append(all_tokens_like(token))
    assert await revoked(client) == ended
    assert len(set(ended)) == 3
    token = await log_in(client, LANCELOT)
    await client.delete(f"/remove-user/{user_id}", headers=bearer(arthurs_token))
    assert not await token_holds(client, token)
    assert (await revoked(client))[-1] == all_tokens_like(token)


async def test_what_changes_nothing_for_a_users_tokens_is_not_in_the_feed(
    client: AsyncClient, arthurs_token: str
) -> None:
    user_id = await register(client, LANCELOT)
    token = await log_in(client, LANCELOT)
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
    assert await token_holds(client, token)


async def test_a_token_of_the_same_second_is_revoked_only_if_it_is_older(
    client: AsyncClient,
) -> None:
    await register(client, LANCELOT)
    before = await log_in(client, LANCELOT)
    await client.post("/me/logout-everywhere", headers=bearer(before))
    after = await log_in(client, LANCELOT)
    assert said_in(before)["iat"] == said_in(after)["iat"]
    assert not await token_holds(client, before)
    assert await token_holds(client, after)


async def test_revoking_an_access_token_ends_that_one_alone(client: AsyncClient) -> None:
    await register(client, LANCELOT)
    token, other = await log_in(client, LANCELOT), await log_in(client, LANCELOT)
    session = await open_session(client, LANCELOT)
    await revoke(client, token, token_type_hint="access_token")
    await revoke(client, session["access_token"], token_type_hint="a hint that misleads")
    assert not await token_holds(client, token)
    assert not await token_holds(client, session["access_token"])
    assert await token_holds(client, other)
    renewed = (await renew(client, session["refresh_token"])).json()
    assert await token_holds(client, renewed["access_token"])
    ended = [token, session["access_token"]]
    assert await revoked(client) == [f"jti:{said_in(token)['jti']}" for token in ended]


@pytest.mark.parametrize("renewals", [0, 1], ids=["the current one", "the one before"])
async def test_revoking_a_refresh_token_ends_its_session(
    client: AsyncClient, renewals: int
) -> None:
    await register(client, LANCELOT)
    session, other = await open_session(client, LANCELOT), await open_session(client, LANCELOT)
    access_tokens, newest = [session["access_token"]], session
    for _ in range(renewals):
        newest = (await renew(client, newest["refresh_token"])).json()
        access_tokens.append(newest["access_token"])
    await revoke(client, session["refresh_token"])
    for token in access_tokens:
        assert not await token_holds(client, token)
    assert_problem(await renew(client, newest["refresh_token"]), 400, "invalid_grant")
    assert await token_holds(client, other["access_token"])
    assert (await renew(client, other["refresh_token"])).status_code == 200
    assert await revoked(client) == [f"sid:{said_in(session['access_token'])['sid']}"]


async def test_revoking_an_invalid_or_expired_token_succeeds(
    client: AsyncClient, clock: Clock
) -> None:
    await register(client, LANCELOT)
    expired = await log_in(client, LANCELOT)
    clock.advance(timedelta(minutes=60))
    session = await open_session(client, LANCELOT)
    token = await log_in(client, LANCELOT)
    unknown = f"hpr_{'0' * 32}_{'0' * 64}"
    for junk in ("garbage", "hpr_", "a" * 5_000, "é\0", expired, unknown, f"Bearer {token}"):
        await revoke(client, junk, is_valid=False)
    assert await revoked(client) == []
    assert (await renew(client, session["refresh_token"])).status_code == 200
    await revoke(client, f" {token}\r\n")
    await revoke(client, token, is_valid=False)
    assert len(await revoked(client)) == 1


async def test_a_refresh_token_that_was_used_before_revokes_its_session_too(
    client: AsyncClient, clock: Clock
) -> None:
    """A client that has lost the newest one wants to log out, and using the old one would revoke
    the session as well."""
    await register(client, LANCELOT)
    first = newest = await open_session(client, LANCELOT)
    for _ in range(3):
        newest = (await renew(client, newest["refresh_token"])).json()
        clock.advance(timedelta(minutes=5))
    await revoke(client, first["refresh_token"])
    assert not await token_holds(client, newest["access_token"])
    assert_problem(await renew(client, newest["refresh_token"]), 400, "invalid_grant")
    await revoke(client, first["refresh_token"], is_valid=False)


@on_sqlite
@pytest.mark.parametrize(
    "body", [{}, {"token": ""}, {"token": ["one", "two"]}], ids=["missing", "empty", "twice"]
)
async def test_a_revocation_names_one_token(client: AsyncClient, body: dict[str, str]) -> None:
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    response = await client.post("/revoke", data=body, headers=headers)
    problem = assert_problem(response, 400, "invalid_request")
    assert problem["error_description"] == problem["message"]


@on_sqlite
async def test_a_revocation_comes_as_a_form(client: AsyncClient) -> None:
    response = await client.post("/revoke", json={"token": "garbage"})
    assert_problem(response, 415, "unsupported_media_type")
    assert_problem(await client.post("/revoke"), 415, "unsupported_media_type")


async def test_only_an_administrator_ends_the_tokens_of_others(
    client: AsyncClient, arthurs_token: str
) -> None:
    user_id = await register(client, LANCELOT)
    token = await log_in(client, LANCELOT)

    async def end(user_id: int, **headers: str) -> Response:
        return await client.post(f"/users/{user_id}/revoke-tokens", headers=headers)

    assert_problem(await end(user_id), 401, "missing_token")
    assert_problem(await end(user_id, **bearer(token)), 403, "insufficient_scope")
    assert_problem(await end(4711, **bearer(arthurs_token)), 404, "user_not_found")
    assert await token_holds(client, token)
    response = await end(user_id, **bearer(arthurs_token))
    assert response.status_code == 200
    assert_problem(await end(user_id, **bearer(token)), 401, "invalid_token")


async def test_logging_out_everywhere_needs_a_token(client: AsyncClient) -> None:
    response = await client.post("/me/logout-everywhere")
    assert_problem(response, 401, "missing_token")


async def test_a_revocation_is_in_force_on_every_instance_and_after_a_restart(
    app: FastAPI, client: AsyncClient
) -> None:
    await register(client, LANCELOT)
    token = await log_in(client, LANCELOT)
    administrators = await log_in(client, ARTHUR)
    async with started_client(app.state.settings, app.state.clock) as there:
        await revoke(client, token)
        assert not await token_holds(client, token)
        assert await comes_to_an_end(there, token)
        await there.post("/me/logout-everywhere", headers=bearer(administrators))
        assert not await token_holds(there, administrators)
        assert await comes_to_an_end(client, administrators)
    async with started_client(app.state.settings, app.state.clock) as restarted:
        assert not await token_holds(restarted, token)


async def test_a_revoked_token_stays_so_after_the_lifetime_was_made_shorter(
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
        assert not await token_holds(client, token)
    clock.advance(timedelta(minutes=15))
    database = Database(shorter, clock)
    assert await Retention(database, shorter).run_once()
    await database.close()
    async with started_client(shorter, clock) as client:
        assert not await token_holds(client, token)
