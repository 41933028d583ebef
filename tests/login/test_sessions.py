"""Sessions begin with a login that requests `offline_access`. Time, their user, an administrator
and newer sessions end them."""

import asyncio
from datetime import timedelta
from typing import Any

import pytest
from fastapi import FastAPI
from httpx import AsyncClient
from sqlalchemy import select, update

from app.context import RequestContext
from app.credentials.second_factors.service import HAS_SECOND_FACTOR
from app.credentials.sessions import service
from app.credentials.sessions.models import Session
from app.credentials.sessions.service import RefreshedSession, Sessions
from app.database.engine import begin_write
from app.groups.user_scopes import HAS_GROUPS
from app.settings import Settings
from app.users.login_account import find_login_account
from app.users.models import User
from app.users.service import Users
from tests.support.apps import started_client
from tests.support.markers import on_postgresql, on_sqlite
from tests.support.sessions import is_over, refreshed, sessions_of
from tests.support.settings import Clock
from tests.support.users import (
    GALAHAD,
    LANCELOT,
    assert_problem,
    bearer,
    claims_of,
    log_in,
    open_session,
    register,
    revoked,
    token_is_valid,
)
from tests.support.waiting import blocking

DAY = timedelta(days=1)
SECOND = timedelta(seconds=1)


@on_sqlite
async def test_when_a_session_begins_what_its_user_sees_and_when_it_ends(
    app: FastAPI, client: AsyncClient, clock: Clock, subtests: pytest.Subtests
) -> None:
    await register(client, LANCELOT)
    with subtests.test("it begins only with the scope offline_access"):
        plain = (await client.post("/token", json=LANCELOT)).json()
        assert set(plain) == {"token", "access_token", "token_type", "expires_in"}
        assert "sid" not in claims_of(plain["token"])
        assert await sessions_of(client, plain["token"]) == []
        answer = await open_session(client, LANCELOT)
        assert set(answer) == {*plain, "refresh_token", "scope"}
        assert answer["scope"] == "offline_access"
        (listed,) = await sessions_of(client, plain["token"])
        assert listed["id"] == claims_of(answer["access_token"])["sid"]
    clock.advance(14 * DAY)
    with subtests.test("its user sees its times, address and user agent"):
        client.headers["User-Agent"] = "Excalibur/1.0 " + "x" * 1_000
        first = await open_session(client, LANCELOT)
        opened = clock()
        clock.advance(DAY)
        first = await refreshed(client, first)
        client.headers["User-Agent"] = "Aroundight/2.0"
        second = await open_session(client, LANCELOT)
        newer, older = await sessions_of(client, second["token"])

        def shown(session: dict[str, Any]) -> list[str]:
            return [session[f"{name}_at"][:10] for name in ("created", "last_used", "expires")]

        assert set(newer) == {
            *("id", "created_at", "last_used_at", "expires_at", "address", "user_agent")
        }
        assert newer["id"] == claims_of(second["token"])["sid"]
        assert older["id"] == claims_of(first["token"])["sid"]
        assert (newer["address"], newer["user_agent"]) == ("127.0.0.1", "Aroundight/2.0")
        assert older["user_agent"] == ("Excalibur/1.0 " + "x" * 1_000)[:200]
        days = [(opened + days * DAY).date().isoformat() for days in (0, 1, 15)]
        assert shown(older) == days
        assert shown(newer) == [days[1], days[1], days[2]]
    with subtests.test("a session in use ends after 90 days"):
        session = await open_session(client, LANCELOT)
        for elapsed in [*9 * [9 * DAY], 9 * DAY - SECOND]:
            clock.advance(elapsed)
            session = await refreshed(client, session)
        clock.advance(SECOND)
        assert await is_over(client, session)
    with subtests.test("a disabled user cannot refresh, even with the current token version"):
        session = await open_session(client, LANCELOT)
        async with app.state.database.session() as writing:
            await begin_write(writing)
            await writing.execute(update(User).values(is_enabled=False))
            await writing.commit()
        assert await is_over(client, session)


async def test_a_session_ends_after_fourteen_days_without_use(
    client: AsyncClient, clock: Clock
) -> None:
    await register(client, LANCELOT)
    used, idle = await open_session(client, LANCELOT), await open_session(client, LANCELOT)
    clock.advance(14 * DAY - SECOND)
    used = await refreshed(client, used)
    clock.advance(SECOND)
    assert await is_over(client, idle)
    token = (await refreshed(client, used))["token"]
    assert [listed["id"] for listed in await sessions_of(client, token)] == [
        claims_of(token)["sid"]
    ]


@on_sqlite
async def test_an_unused_session_ends_after_the_shorter_of_both_times(
    settings: Settings, clock: Clock
) -> None:
    shorter = settings.model_copy(update={"session_idle_days": 14, "session_max_days": 7})
    async with started_client(shorter, clock) as client:
        await register(client, LANCELOT)
        session = await open_session(client, LANCELOT)
        clock.advance(7 * DAY)
        assert await is_over(client, session)


async def test_a_user_revokes_one_session_with_its_tokens_and_no_other(
    client: AsyncClient,
) -> None:
    await register(client, LANCELOT)
    plain = await log_in(client, LANCELOT)
    lost, kept = await open_session(client, LANCELOT), await open_session(client, LANCELOT)
    path = f"/me/sessions/{claims_of(lost['token'])['sid']}"
    assert_problem(await client.delete(path), 401, "missing_token")
    response = await client.delete(path, headers=bearer(plain))
    assert (response.status_code, response.json()) == (200, {"message": "Session revoked"})
    assert not await token_is_valid(client, lost["token"])
    assert await is_over(client, lost)
    assert await token_is_valid(client, plain)
    assert await token_is_valid(client, kept["token"])
    assert not await is_over(client, kept)
    response = await client.delete(path, headers=bearer(plain))
    assert_problem(response, 404, "session_not_found")
    assert await revoked(client) == [f"sid:{claims_of(lost['token'])['sid']}"]


@on_sqlite
async def test_only_an_administrator_sees_or_revokes_the_sessions_of_others(
    client: AsyncClient, arthurs_token: str
) -> None:
    user_id = await register(client, LANCELOT)
    galahad = await register(client, GALAHAD)
    session = await open_session(client, LANCELOT)
    id_ = claims_of(session["token"])["sid"]
    galahads = bearer(await log_in(client, GALAHAD))
    response = await client.delete(f"/me/sessions/{id_}", headers=galahads)
    assert_problem(response, 404, "session_not_found")
    for method, path in [("GET", "sessions"), ("DELETE", f"sessions/{id_}")]:
        response = await client.request(method, f"/users/{user_id}/{path}", headers=galahads)
        assert_problem(response, 403, "insufficient_scope")
        response = await client.request(method, f"/users/{user_id}/{path}")
        assert_problem(response, 401, "missing_token")
    assert not await is_over(client, session)

    by_arthur = bearer(arthurs_token)
    (listed,) = await sessions_of(client, arthurs_token, f"/users/{user_id}")
    assert listed["id"] == id_
    response = await client.get("/users/4711/sessions", headers=by_arthur)
    assert_problem(response, 404, "user_not_found")
    response = await client.delete(f"/users/{galahad}/sessions/{id_}", headers=by_arthur)
    assert_problem(response, 404, "session_not_found")
    response = await client.delete(f"/users/{user_id}/sessions/{id_}", headers=by_arthur)
    assert response.json() == {"message": "Session revoked"}
    assert not await token_is_valid(client, session["token"])
    assert await is_over(client, session)
    for session_id in ("0" * 15, "0" * 17, "0" * 15 + "G", "0" * 15 + "%00"):
        for whose in ("/me", "/users/1"):
            path = f"{whose}/sessions/{session_id}"
            refused = await client.delete(path, headers=bearer(arthurs_token))
            (field,) = assert_problem(refused, 422, "invalid_request")["fields"]
            assert field["field"] == "session_id"


async def test_one_session_too_many_revokes_the_oldest(
    client: AsyncClient, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "MAX_PER_USER", 3)
    await register(client, LANCELOT)
    await register(client, GALAHAD)
    others = await open_session(client, GALAHAD)
    sessions: list[dict[str, Any]] = []
    for number in range(5):
        clock.advance(SECOND)
        if number == 3:  # its age counts, not when it was last used
            sessions[0] = await refreshed(client, sessions[0])
        sessions.append(await open_session(client, LANCELOT))
    ids = [claims_of(session["token"])["sid"] for session in sessions]
    listed = await sessions_of(client, sessions[-1]["token"])
    assert [session["id"] for session in listed] == ids[:1:-1]
    for session in sessions:
        ended = session in sessions[:2]
        assert await is_over(client, session) == ended
        assert await token_is_valid(client, session["token"]) != ended
    assert not await is_over(client, others)
    assert await revoked(client) == [f"sid:{id_}" for id_ in ids[:2]]


async def open_directly(app: FastAPI, clock: Clock) -> RefreshedSession | None:
    """Creates a session like a login, without checking the password."""
    async with app.state.database.session() as session:
        context = RequestContext(session, clock())
        lancelot = await find_login_account(context, "lancelot", HAS_SECOND_FACTOR, HAS_GROUPS)
        assert lancelot
        sessions: Sessions = app.state.services.sessions
        return await sessions.create(context, lancelot, "")


async def test_simultaneous_logins_count_the_sessions_of_each_other(
    app: FastAPI, client: AsyncClient, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "MAX_PER_USER", 2)
    await register(client, LANCELOT)
    for _ in range(2):
        await open_session(client, LANCELOT)
    async with app.state.database.session() as blocker:
        await begin_write(blocker)
        await blocker.execute(select(User).with_for_update())
        async with blocking(app.state.database, 2):
            opening = [asyncio.create_task(open_directly(app, clock)) for _ in range(2)]
        await blocker.commit()
    assert all(await asyncio.gather(*opening))
    async with app.state.database.session() as session:
        assert len((await session.scalars(select(Session.id))).all()) == 2


@on_postgresql
async def test_a_session_is_created_while_something_that_refers_to_its_user_is_written(
    app: FastAPI, client: AsyncClient, clock: Clock
) -> None:
    await register(client, LANCELOT)
    async with app.state.database.session() as writing, asyncio.timeout(10):
        await writing.execute(select(User).with_for_update(read=True, key_share=True))
        assert await open_directly(app, clock)


async def test_a_user_who_is_removed_or_disabled_during_a_login_gets_no_session(
    app: FastAPI, client: AsyncClient, users: Users, clock: Clock
) -> None:
    """Nothing is locked while the password is checked, because that takes a while. Another user
    has the same token version."""
    await register(client, LANCELOT)
    await register(client, GALAHAD)
    async with app.state.database.session() as session:
        sessions: Sessions = app.state.services.sessions
        context = RequestContext(session, clock())
        for cut_off in (users.revoke_tokens, users.remove):
            session.expunge_all()
            lancelot = await find_login_account(context, "lancelot", HAS_SECOND_FACTOR, HAS_GROUPS)
            assert lancelot
            await begin_write(session)
            same_epoch = update(User).values(token_version=lancelot.token_version)
            await session.execute(same_epoch.execution_options(synchronize_session=False))
            await session.commit()
            async with app.state.database.session() as another:
                await cut_off(RequestContext(another, clock()), lancelot.id)
            assert await sessions.create(context, lancelot, "") is None
            assert not session.in_transaction()
