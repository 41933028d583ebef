"""A refresh token works once. Reusing one revokes its session."""

import asyncio
import random
import secrets
from datetime import timedelta
from types import SimpleNamespace

import pytest
from fastapi import FastAPI
from httpx import AsyncClient
from sqlalchemy import select, text

from app.context import RequestContext
from app.credentials.sessions import service
from app.credentials.sessions.models import Session
from app.credentials.sessions.service import Sessions
from app.database.engine import begin_write
from app.users.models import User
from app.users.service import Users
from tests.support.apps import client_of
from tests.support.markers import on_postgresql, on_sqlite
from tests.support.sessions import is_over, refreshed, sessions_of
from tests.support.settings import Clock
from tests.support.users import (
    ARTHUR,
    LANCELOT,
    assert_problem,
    bearer,
    claims_of,
    open_session,
    refresh,
    register,
    revoked,
    token_is_valid,
)
from tests.support.waiting import blocking

SECOND = timedelta(seconds=1)
DAY = timedelta(days=1)
GRACE = 60 * SECOND
SHORT_GRACE = 10 * SECOND


async def test_each_refresh_returns_the_next_pair_of_tokens(
    app: FastAPI, client: AsyncClient, clock: Clock, subtests: pytest.Subtests
) -> None:
    await register(client, LANCELOT)
    with subtests.test("one after the other"):
        pair = await open_session(client, LANCELOT)
        pairs = [pair]
        for kind in ("json", "data", "json"):
            grant = {"grant_type": "refresh_token", "refresh_token": pair["refresh_token"]}
            response = await client.request("POST", "/token", **{kind: grant})  # type: ignore[arg-type] # json or data
            assert response.status_code == 200, response.text
            assert response.headers["cache-control"] == "no-store"
            pair = response.json()
            assert set(pair) == set(pairs[0])
            assert pair["token"] == pair["access_token"]
            pairs.append(pair)
        for name in ("access_token", "refresh_token"):
            assert len({pair[name] for pair in pairs}) == 4
        assert len({claims_of(pair["token"])["sid"] for pair in pairs}) == 1
        for pair in pairs:
            assert await token_is_valid(client, pair["access_token"])
        assert len(await sessions_of(client, pairs[0]["token"])) == 1
    with subtests.test("the same one for a minute, after a lost response"):
        session, other = await open_session(client, LANCELOT), await open_session(client, LANCELOT)
        lost = await refreshed(client, session)
        await refreshed(client, other)
        clock.advance(GRACE)
        again = await refreshed(client, session)
        assert again["refresh_token"] == lost["refresh_token"]
        assert await token_is_valid(client, again["access_token"])
        assert not await is_over(client, again)
        # Repeating a request does not extend the minute.
        await refreshed(client, other)
        clock.advance(SECOND)
        assert await is_over(client, other)
    with subtests.test("the same one for simultaneous requests"):
        session = await open_session(client, LANCELOT)
        answers = await asyncio.gather(*(refreshed(client, session) for _ in range(5)))
        assert len({answer["refresh_token"] for answer in answers}) == 1
        for answer in answers:
            assert await token_is_valid(client, answer["access_token"])
        assert not await is_over(client, answers[0])
    with subtests.test("none if the session ends meanwhile"):
        session = await open_session(client, LANCELOT)
        async with app.state.database.session() as stopping:
            await begin_write(stopping)
            await stopping.execute(text("DELETE FROM sessions"))
            async with blocking(app.state.database):
                refreshing = asyncio.create_task(refresh(client, session["refresh_token"]))
            await stopping.commit()
        assert_problem(await refreshing, 400, "invalid_grant")
    with subtests.test("none for an unknown one, which leaves no transaction open"):
        async with app.state.database.session() as session:
            sessions: Sessions = app.state.services.sessions
            refresh_token = f"hpr_{'0' * 32}_{'0' * 64}"
            assert await sessions.refresh(RequestContext(session, clock()), refresh_token) is None
            assert not session.in_transaction()


@on_sqlite
async def test_a_minute_is_for_a_client_like_the_one_that_logged_in_and_others_have_ten_seconds(
    app: FastAPI, client: AsyncClient, clock: Clock, subtests: pytest.Subtests
) -> None:
    await register(client, LANCELOT)
    notebook, nobody = ("192.0.2.1", "notebook"), ("", "")  # a Unix socket may have neither
    for name, first, second, grace in (
        ("both as at the login", notebook, notebook, GRACE),
        ("the address", notebook, ("192.0.2.1", "another"), GRACE),
        ("the user agent", notebook, ("198.51.100.7", "notebook"), GRACE),
        ("neither", notebook, ("198.51.100.7", "another"), SHORT_GRACE),
        ("neither, and no user agent", notebook, ("198.51.100.7", ""), SHORT_GRACE),
        ("no address and no user agent at all", nobody, nobody, SHORT_GRACE),
    ):
        with subtests.test(name):
            async with client_of(app, first[0]) as login, client_of(app, second[0]) as repeating:
                login.headers["user-agent"], repeating.headers["user-agent"] = first[1], second[1]
                session = await open_session(login, LANCELOT)
                await refreshed(login, session)
                clock.advance(grace)
                assert not await is_over(repeating, session)
                clock.advance(SECOND)
                assert await is_over(repeating, session)


async def test_reusing_a_refresh_token_revokes_its_whole_session(
    client: AsyncClient,
    clock: Clock,
    caplog: pytest.LogCaptureFixture,
    subtests: pytest.Subtests,
) -> None:
    await register(client, LANCELOT)
    entries: list[str] = []
    for theft in ("after the grace", "of an older one", "with an invented secret"):
        with subtests.test(theft):
            caplog.clear()
            session = await open_session(client, LANCELOT)
            other = await open_session(client, LANCELOT)
            second = await refreshed(client, session)
            stolen = session
            if theft == "after the grace":
                clock.advance(GRACE + SECOND)
            elif theft == "of an older one":
                second = await refreshed(client, second)
            else:
                stolen = {"refresh_token": session["refresh_token"][:-64] + "0" * 64}
            assert await is_over(client, stolen)
            (warning,) = (one for one in caplog.records if one.name == "hourpass.sessions")
            assert warning.message == "Refresh token reused, session revoked"
            assert vars(warning)["user_id"] == 2
            assert await is_over(client, second)
            for token in (session["access_token"], second["access_token"]):
                assert not await token_is_valid(client, token)
            assert await token_is_valid(client, other["access_token"])
            assert not await is_over(client, other)
            entries.append(f"sid:{claims_of(session['access_token'])['sid']}")
            assert await revoked(client) == entries


@on_sqlite
async def test_refreshed_tokens_have_the_time_of_the_login(
    client: AsyncClient, clock: Clock
) -> None:
    await register(client, LANCELOT)
    session = await open_session(client, LANCELOT)
    login = int(clock().timestamp())
    clock.advance(DAY)
    session = await refreshed(client, session)
    claims = claims_of(session["token"])
    assert (claims["auth_time"], claims["iat"]) == (login, login + 86_400)


@on_postgresql
async def test_a_session_is_refreshed_while_its_user_is_locked(
    app: FastAPI, client: AsyncClient
) -> None:
    """Users are locked before sessions. To lock a user after a session could be a deadlock."""
    await register(client, LANCELOT)
    session = await open_session(client, LANCELOT)
    async with app.state.database.session() as writing, asyncio.timeout(10):
        await writing.execute(select(User).with_for_update())
        await refreshed(client, session)


@on_sqlite
async def test_a_refresh_token_is_a_secret(
    app: FastAPI,
    client: AsyncClient,
    monkeypatch: pytest.MonkeyPatch,
    subtests: pytest.Subtests,
) -> None:
    await register(client, LANCELOT)
    with subtests.test("the database does not contain it"):
        first = await open_session(client, LANCELOT)
        second = await refreshed(client, first)
        async with app.state.database.session() as session:
            (row,) = await session.execute(text("SELECT * FROM sessions"))
        for token in (first["refresh_token"], second["refresh_token"]):
            secret = token.rpartition("_")[2]
            for column in row:
                assert secret not in str(column)
                assert bytes.fromhex(secret) != column
    with subtests.test("it has 384 random bits"):
        drawn = []
        for _ in range(2):
            random.seed(22)
            prefix, *parts = (await open_session(client, LANCELOT))["refresh_token"].split("_")
            assert (prefix, [4 * len(part) for part in parts]) == ("hpr", [128, 256])
            drawn.append(parts)
        for one, another in zip(*drawn, strict=True):
            assert one != another
    async with app.state.database.session() as session:
        await begin_write(session)
        await session.execute(text("DELETE FROM sessions"))
        await session.commit()
    with subtests.test("it cannot be computed from its predecessor"):
        # Two sessions with everything in common that a thief of the used refresh token can know:
        # user, times, id, handle and secret. They differ in the key that only the database has.
        same = SimpleNamespace(
            token_hex=lambda count: "5a" * count, token_bytes=secrets.token_bytes
        )
        monkeypatch.setattr(service, "secrets", same)
        spent, successors = set(), set()
        for _ in range(2):
            random.seed(22)  # numbers from `random` can be predicted
            opened = await open_session(client, LANCELOT)
            async with app.state.database.session() as session:
                assert len(await session.scalar(select(Session.rotation_key)) or b"") * 8 == 256
            spent.add(opened["refresh_token"])
            successors.add((await refreshed(client, opened))["refresh_token"])
            await client.post("/revoke", data={"token": opened["refresh_token"]})
        assert len(spent) == 1
        assert len(successors) == 2
        assert not spent & successors


@on_sqlite
async def test_offline_access_alone_keeps_every_scope_and_naming_others_limits_them(
    client: AsyncClient, users: Users, context: RequestContext
) -> None:
    await users.set_scopes(context, await register(client, LANCELOT), {"predict", "train"})
    for asked, given in [
        ("", "predict train"),
        ("predict", "predict"),
        ("offline_access", "offline_access predict train"),
        ("train offline_access", "offline_access train"),
        ("predict  train admin", "predict train"),
        ("admin offline_access", "offline_access"),
    ]:
        answer = await open_session(client, LANCELOT, asked)
        assert answer["scope"] == claims_of(answer["token"])["scope"] == given
        if "offline_access" in asked:
            assert (await refreshed(client, answer))["scope"] == given


@on_sqlite
async def test_a_token_of_an_administrator_without_the_scope_does_not_administer(
    client: AsyncClient,
) -> None:
    user_id = await register(client, LANCELOT)
    narrowed = await open_session(client, ARTHUR, "offline_access predict")
    whole = await refreshed(client, await open_session(client, ARTHUR))
    narrowed = await refreshed(client, narrowed)
    for method, path in [
        ("PUT", f"/toggle-user-permission/{user_id}/0"),
        ("DELETE", f"/remove-user/{user_id}"),
        ("POST", f"/users/{user_id}/revoke-tokens"),
        ("GET", f"/users/{user_id}/sessions"),
    ]:
        response = await client.request(method, path, headers=bearer(narrowed["token"]))
        assert_problem(response, 403, "insufficient_scope")
    response = await client.get(f"/users/{user_id}/sessions", headers=bearer(whole["token"]))
    assert response.status_code == 200


@on_sqlite
async def test_an_invalid_grant_is_rejected(client: AsyncClient, subtests: pytest.Subtests) -> None:
    unknown = f"hpr_{'0' * 32}_{'0' * 64}"
    for name, grant, error in (
        ("garbage", {"refresh_token": "garbage"}, "invalid_grant"),
        ("too short", {"refresh_token": "hpr_0_0"}, "invalid_grant"),
        ("unknown", {"refresh_token": unknown}, "invalid_grant"),
        ("another grant", {"grant_type": "authorization_code"}, "unsupported_grant_type"),
    ):
        for kind in ("json", "data"):
            with subtests.test(name, kind=kind):
                sent = {kind: {"grant_type": "refresh_token", **grant}}
                response = await client.post("/token", **sent)  # type: ignore[arg-type] # json or data
                problem = assert_problem(response, 400, error)
                assert problem["error_description"] == problem["message"]
                assert "www-authenticate" not in response.headers
    for grant_type in (["password"], {"password": 1}, 1):
        with subtests.test(grant_type=grant_type):
            response = await client.post("/token", json={**ARTHUR, "grant_type": grant_type})
            assert_problem(response, 400, "unsupported_grant_type")
    for refresh_token in ({}, {"refresh_token": "a" * 201}):
        with subtests.test(f"{refresh_token}"[:20]):
            body = {"grant_type": "refresh_token", **refresh_token}
            assert_problem(await client.post("/token", data=body), 400, "invalid_request")
            assert_problem(await client.post("/token", json=body), 422, "invalid_request")
