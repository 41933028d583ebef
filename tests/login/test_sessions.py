"""A session outlives a token, for those who ask for it: a refresh token is traded for the next
access token, and whoever copies one ends the session instead of taking it over."""

import asyncio
import random
import secrets
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from fastapi import FastAPI
from httpx import AsyncClient
from sqlalchemy import select, text, update

from app.context import RequestContext
from app.credentials.second_factors.service import HAS_SECOND_FACTOR
from app.credentials.sessions import service
from app.credentials.sessions.models import Session
from app.credentials.sessions.service import RefreshedSession, Sessions
from app.database.engine import begin_write
from app.groups.grants import HAS_GROUPS
from app.settings import Settings
from app.users.login_account import find_login_account
from app.users.models import User
from app.users.service import Users
from tests.support.apps import client_of, started_client
from tests.support.markers import on_postgresql, on_sqlite
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
    revoked,
    said_in,
    token_holds,
)
from tests.support.waiting import blocking

DAY = timedelta(days=1)
SECOND = timedelta(seconds=1)
GRACE = 60 * SECOND
SHORT_GRACE = 10 * SECOND


async def renewed(client: AsyncClient, session: dict[str, Any]) -> dict[str, Any]:
    response = await renew(client, session["refresh_token"])
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


async def is_over(client: AsyncClient, session: dict[str, Any]) -> bool:
    """Whether the newest refresh token of a session is refused."""
    response = await renew(client, session["refresh_token"])
    if response.status_code == 200:
        return False
    problem = assert_problem(response, 400, "invalid_grant")
    assert problem["message"] == problem["error_description"] == "Invalid refresh token"
    return True


async def sessions_of(client: AsyncClient, token: str, whose: str = "/me") -> list[dict[str, Any]]:
    response = await client.get(f"{whose}/sessions", headers=bearer(token))
    assert response.status_code == 200, response.text
    listed: list[dict[str, Any]] = response.json()["sessions"]
    return listed


async def test_a_session_begins_only_with_the_scope_offline_access(client: AsyncClient) -> None:
    await register(client, LANCELOT)
    plain = (await client.post("/token", json=LANCELOT)).json()
    assert set(plain) == {"token", "access_token", "token_type", "expires_in"}
    assert "sid" not in said_in(plain["token"])
    assert await sessions_of(client, plain["token"]) == []
    answer = await open_session(client, LANCELOT)
    assert set(answer) == {*plain, "refresh_token", "scope"}
    assert answer["scope"] == "offline_access"
    (listed,) = await sessions_of(client, plain["token"])
    assert listed["id"] == said_in(answer["access_token"])["sid"]


@pytest.mark.parametrize("how", ["json", "data"], ids=["JSON", "form"])
async def test_each_renewal_gives_the_next_pair(client: AsyncClient, how: str) -> None:
    await register(client, LANCELOT)
    pair = await open_session(client, LANCELOT)
    pairs = [pair]
    for _ in range(3):
        grant = {"grant_type": "refresh_token", "refresh_token": pair["refresh_token"]}
        response = await client.request("POST", "/token", **{how: grant})  # type: ignore[arg-type] # json or data
        assert response.status_code == 200, response.text
        assert response.headers["cache-control"] == "no-store"
        pair = response.json()
        assert set(pair) == set(pairs[0])
        assert pair["token"] == pair["access_token"]
        pairs.append(pair)
    for name in ("access_token", "refresh_token"):
        assert len({pair[name] for pair in pairs}) == 4
    assert len({said_in(pair["token"])["sid"] for pair in pairs}) == 1
    for pair in pairs:
        assert await token_holds(client, pair["access_token"])
    assert len(await sessions_of(client, pairs[0]["token"])) == 1


async def test_after_a_lost_answer_the_same_successor_is_given_again(
    client: AsyncClient, clock: Clock
) -> None:
    await register(client, LANCELOT)
    session = await open_session(client, LANCELOT)
    lost = await renewed(client, session)
    clock.advance(GRACE)
    again = await renewed(client, session)
    assert again["refresh_token"] == lost["refresh_token"]
    assert await token_holds(client, again["access_token"])
    assert not await is_over(client, again)


async def test_asking_for_a_lost_answer_again_does_not_extend_the_grace(
    client: AsyncClient, clock: Clock
) -> None:
    await register(client, LANCELOT)
    session = await open_session(client, LANCELOT)
    await renewed(client, session)
    clock.advance(GRACE)
    await renewed(client, session)
    clock.advance(SECOND)
    assert await is_over(client, session)


@pytest.mark.parametrize(
    ("network", "user_agent", "grace"),
    [
        pytest.param("192.0.2.1", "notebook", GRACE, id="both as at the login"),
        pytest.param("192.0.2.1", "another", GRACE, id="the address"),
        pytest.param("198.51.100.7", "notebook", GRACE, id="the user agent"),
        pytest.param("198.51.100.7", "another", SHORT_GRACE, id="neither"),
        pytest.param("198.51.100.7", "", SHORT_GRACE, id="neither, and no user agent"),
    ],
)
async def test_the_long_grace_is_for_a_client_that_looks_like_the_one_that_logged_in(  # noqa: PLR0917
    app: FastAPI, client: AsyncClient, clock: Clock, network: str, user_agent: str, grace: timedelta
) -> None:
    await register(client, LANCELOT)
    async with client_of(app, "192.0.2.1") as notebook, client_of(app, network) as repeating:
        notebook.headers["user-agent"] = "notebook"
        repeating.headers["user-agent"] = user_agent
        for late, is_refused in ((timedelta(), False), (SECOND, True)):
            session = await open_session(notebook, LANCELOT)
            await renewed(notebook, session)
            clock.advance(grace + late)
            assert await is_over(repeating, session) is is_refused


async def test_without_an_address_and_a_user_agent_two_clients_are_not_the_same(
    app: FastAPI, client: AsyncClient, clock: Clock
) -> None:
    """Behind a Unix socket there may be neither."""
    await register(client, LANCELOT)
    async with client_of(app, "") as nobody:
        nobody.headers["user-agent"] = ""
        session = await open_session(nobody, LANCELOT)
        await renewed(nobody, session)
        clock.advance(SHORT_GRACE + SECOND)
        assert await is_over(nobody, session)


async def test_two_simultaneous_renewals_get_the_same_successor(
    client: AsyncClient,
) -> None:
    await register(client, LANCELOT)
    session = await open_session(client, LANCELOT)
    answers = await asyncio.gather(*(renewed(client, session) for _ in range(5)))
    assert len({answer["refresh_token"] for answer in answers}) == 1
    for answer in answers:
        assert await token_holds(client, answer["access_token"])
    assert not await is_over(client, answers[0])


async def test_a_session_that_ends_during_its_renewal_stays_ended(
    app: FastAPI, client: AsyncClient
) -> None:
    await register(client, LANCELOT)
    session = await open_session(client, LANCELOT)
    async with app.state.database.session() as stopping:
        await begin_write(stopping)
        await stopping.execute(text("DELETE FROM sessions"))
        async with blocking(app.state.database):
            renewal = asyncio.create_task(renew(client, session["refresh_token"]))
        await stopping.commit()
    assert_problem(await renewal, 400, "invalid_grant")


@pytest.mark.parametrize("theft", ["after the grace", "with an older one", "with a made-up one"])
async def test_the_reuse_of_a_spent_refresh_token_ends_its_whole_session(
    client: AsyncClient, clock: Clock, caplog: pytest.LogCaptureFixture, theft: str
) -> None:
    await register(client, LANCELOT)
    session, other = await open_session(client, LANCELOT), await open_session(client, LANCELOT)
    second = await renewed(client, session)
    stolen = session
    if theft == "after the grace":
        clock.advance(GRACE + SECOND)
    elif theft == "with an older one":
        second = await renewed(client, second)
    else:
        stolen = {"refresh_token": session["refresh_token"][:-64] + "0" * 64}
    assert await is_over(client, stolen)
    (warning,) = (record for record in caplog.records if record.name == "hourpass.sessions")
    assert warning.message == "Refresh token reused, session revoked"
    assert vars(warning)["user_id"] == 2
    assert await is_over(client, second)
    for token in (session["access_token"], second["access_token"]):
        assert not await token_holds(client, token)
    assert await token_holds(client, other["access_token"])
    assert not await is_over(client, other)
    assert await revoked(client) == [f"sid:{said_in(session['access_token'])['sid']}"]


async def test_a_session_ends_after_fourteen_days_without_use(
    client: AsyncClient, clock: Clock
) -> None:
    await register(client, LANCELOT)
    used, idle = await open_session(client, LANCELOT), await open_session(client, LANCELOT)
    clock.advance(14 * DAY - SECOND)
    used = await renewed(client, used)
    clock.advance(SECOND)
    assert await is_over(client, idle)
    token = (await renewed(client, used))["token"]
    assert [listed["id"] for listed in await sessions_of(client, token)] == [said_in(token)["sid"]]


async def test_a_session_ends_after_ninety_days_however_much_it_is_used(
    client: AsyncClient, clock: Clock
) -> None:
    await register(client, LANCELOT)
    session = await open_session(client, LANCELOT)
    for elapsed in [*9 * [9 * DAY], 9 * DAY - SECOND]:
        clock.advance(elapsed)
        session = await renewed(client, session)
    clock.advance(SECOND)
    assert await is_over(client, session)


async def test_a_session_that_is_never_used_ends_by_the_shorter_of_both_times(
    settings: Settings, clock: Clock
) -> None:
    shorter = settings.model_copy(update={"session_idle_days": 14, "session_max_days": 7})
    async with started_client(shorter, clock) as client:
        await register(client, LANCELOT)
        session = await open_session(client, LANCELOT)
        clock.advance(7 * DAY)
        assert await is_over(client, session)


async def test_a_disabled_user_renews_no_session_of_whatever_epoch(
    app: FastAPI, client: AsyncClient
) -> None:
    await register(client, LANCELOT)
    session = await open_session(client, LANCELOT)
    async with app.state.database.session() as writing:
        await begin_write(writing)
        await writing.execute(update(User).values(is_enabled=False))
        await writing.commit()
    assert await is_over(client, session)


async def test_a_session_stays_with_the_login_that_opened_it(
    client: AsyncClient, clock: Clock
) -> None:
    await register(client, LANCELOT)
    session = await open_session(client, LANCELOT)
    login = int(clock().timestamp())
    clock.advance(DAY)
    session = await renewed(client, session)
    claims = said_in(session["token"])
    assert (claims["auth_time"], claims["iat"]) == (login, login + 86_400)


@on_sqlite
async def test_its_owner_sees_when_from_where_and_with_what_a_session_was_opened(
    client: AsyncClient, clock: Clock
) -> None:
    await register(client, LANCELOT)
    client.headers["User-Agent"] = "Excalibur/1.0 " + "x" * 1_000
    first = await open_session(client, LANCELOT)
    opened = clock()
    clock.advance(DAY)
    first = await renewed(client, first)
    client.headers["User-Agent"] = "Aroundight/2.0"
    second = await open_session(client, LANCELOT)
    newer, older = await sessions_of(client, second["token"])

    def shown(session: dict[str, Any]) -> list[str]:
        return [session[f"{name}_at"][:10] for name in ("created", "last_used", "expires")]

    assert set(newer) == {
        *("id", "created_at", "last_used_at", "expires_at", "address", "user_agent")
    }
    assert newer["id"] == said_in(second["token"])["sid"]
    assert older["id"] == said_in(first["token"])["sid"]
    assert (newer["address"], newer["user_agent"]) == ("127.0.0.1", "Aroundight/2.0")
    assert older["user_agent"] == ("Excalibur/1.0 " + "x" * 1_000)[:200]
    days = [(opened + days * DAY).date().isoformat() for days in (0, 1, 15)]
    assert shown(older) == days
    assert shown(newer) == [days[1], days[1], days[2]]


async def test_its_owner_ends_one_session_with_its_tokens_and_no_other(
    client: AsyncClient,
) -> None:
    await register(client, LANCELOT)
    plain = await log_in(client, LANCELOT)
    lost, kept = await open_session(client, LANCELOT), await open_session(client, LANCELOT)
    path = f"/me/sessions/{said_in(lost['token'])['sid']}"
    assert_problem(await client.delete(path), 401, "missing_token")
    response = await client.delete(path, headers=bearer(plain))
    assert (response.status_code, response.json()) == (200, {"message": "Session revoked"})
    assert not await token_holds(client, lost["token"])
    assert await is_over(client, lost)
    assert await token_holds(client, plain)
    assert await token_holds(client, kept["token"])
    assert not await is_over(client, kept)
    response = await client.delete(path, headers=bearer(plain))
    assert_problem(response, 404, "session_not_found")
    assert await revoked(client) == [f"sid:{said_in(lost['token'])['sid']}"]


async def test_only_an_administrator_sees_or_ends_the_sessions_of_others(
    client: AsyncClient, arthurs_token: str
) -> None:
    user_id = await register(client, LANCELOT)
    galahad = await register(client, GALAHAD)
    session = await open_session(client, LANCELOT)
    id_ = said_in(session["token"])["sid"]
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
    assert not await token_holds(client, session["token"])
    assert await is_over(client, session)


@on_sqlite
@pytest.mark.parametrize("session_id", ["0" * 15, "0" * 17, "0" * 15 + "G", "0" * 15 + "%00"])
async def test_an_invalid_session_id_is_rejected(
    client: AsyncClient, arthurs_token: str, session_id: str
) -> None:
    for whose in ("/me", "/users/1"):
        path = f"{whose}/sessions/{session_id}"
        refused = await client.delete(path, headers=bearer(arthurs_token))
        (field,) = assert_problem(refused, 422, "invalid_request")["fields"]
        assert field["field"] == "session_id"


async def test_the_oldest_session_of_a_user_ends_when_there_are_too_many(
    client: AsyncClient, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "MAX_PER_USER", 5)
    await register(client, LANCELOT)
    await register(client, GALAHAD)
    others = await open_session(client, GALAHAD)
    sessions: list[dict[str, Any]] = []
    for number in range(7):
        clock.advance(SECOND)
        if number == 5:  # to have been used last does not make it younger
            sessions[0] = await renewed(client, sessions[0])
        sessions.append(await open_session(client, LANCELOT))
    ids = [said_in(session["token"])["sid"] for session in sessions]
    listed = await sessions_of(client, sessions[-1]["token"])
    assert [session["id"] for session in listed] == ids[:1:-1]
    for session in sessions:
        ended = session in sessions[:2]
        assert await is_over(client, session) == ended
        assert await token_holds(client, session["token"]) != ended
    assert not await is_over(client, others)
    assert await revoked(client) == [f"sid:{id_}" for id_ in ids[:2]]


async def open_directly(app: FastAPI, clock: Clock) -> RefreshedSession | None:
    """As a login does, and without all that it does before."""
    async with app.state.database.session() as session:
        context = RequestContext(session, clock())
        lancelot = await find_login_account(context, "lancelot", HAS_SECOND_FACTOR, HAS_GROUPS)
        assert lancelot
        sessions: Sessions = app.state.services.sessions
        return await sessions.create(context, lancelot, "")


async def test_sessions_that_are_opened_at_once_count_each_other(
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
async def test_a_session_is_opened_while_something_that_refers_to_its_user_is_written(
    app: FastAPI, client: AsyncClient, clock: Clock
) -> None:
    await register(client, LANCELOT)
    async with app.state.database.session() as writing, asyncio.timeout(10):
        await writing.execute(select(User).with_for_update(read=True, key_share=True))
        assert await open_directly(app, clock)


@on_postgresql
async def test_a_session_is_renewed_while_its_user_is_locked(
    app: FastAPI, client: AsyncClient
) -> None:
    """Users are locked before sessions. To lock a user after a session could be a deadlock."""
    await register(client, LANCELOT)
    session = await open_session(client, LANCELOT)
    async with app.state.database.session() as writing, asyncio.timeout(10):
        await writing.execute(select(User).with_for_update())
        await renewed(client, session)


async def test_a_copy_of_the_database_holds_no_refresh_token(
    app: FastAPI, client: AsyncClient
) -> None:
    await register(client, LANCELOT)
    first = await open_session(client, LANCELOT)
    second = await renewed(client, first)
    async with app.state.database.session() as session:
        (row,) = await session.execute(text("SELECT * FROM sessions"))
    for token in (first["refresh_token"], second["refresh_token"]):
        secret = token.rpartition("_")[2]
        for column in row:
            assert secret not in str(column)
            assert bytes.fromhex(secret) != column


async def test_a_refresh_token_cannot_be_computed_from_its_predecessor(
    app: FastAPI, client: AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two sessions in which all is the same that a holder of the spent refresh token can know:
    user, times, id, handle and secret. What the database alone knows decides."""
    same = SimpleNamespace(token_hex=lambda count: "5a" * count, token_bytes=secrets.token_bytes)
    monkeypatch.setattr(service, "secrets", same)
    await register(client, LANCELOT)
    spent, successors = set(), set()
    for _ in range(2):
        random.seed(22)  # numbers from `random` can be predicted
        opened = await open_session(client, LANCELOT)
        async with app.state.database.session() as session:
            assert len(await session.scalar(select(Session.rotation_key)) or b"") * 8 == 256
        spent.add(opened["refresh_token"])
        successors.add((await renewed(client, opened))["refresh_token"])
        await client.post("/revoke", data={"token": opened["refresh_token"]})
    assert len(spent) == 1
    assert len(successors) == 2
    assert not spent & successors


async def test_each_session_begins_with_a_refresh_token_of_384_random_bits(
    client: AsyncClient,
) -> None:
    await register(client, LANCELOT)
    drawn = []
    for _ in range(2):
        random.seed(22)
        prefix, *parts = (await open_session(client, LANCELOT))["refresh_token"].split("_")
        assert (prefix, [4 * len(part) for part in parts]) == ("hpr", [128, 256])
        drawn.append(parts)
    for one, another in zip(*drawn, strict=True):
        assert one != another


async def test_offline_access_alone_keeps_every_scope_and_naming_one_narrows(
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
        assert answer["scope"] == said_in(answer["token"])["scope"] == given
        if "offline_access" in asked:
            assert (await renewed(client, answer))["scope"] == given


async def test_a_token_of_an_administrator_without_the_scope_does_not_administer(
    client: AsyncClient,
) -> None:
    user_id = await register(client, LANCELOT)
    narrowed = await open_session(client, ARTHUR, "offline_access predict")
    whole = await renewed(client, await open_session(client, ARTHUR))
    narrowed = await renewed(client, narrowed)
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
@pytest.mark.parametrize("how", ["json", "data"], ids=["JSON", "form"])
@pytest.mark.parametrize(
    ("grant", "error"),
    [
        ({"grant_type": "refresh_token", "refresh_token": "garbage"}, "invalid_grant"),
        ({"grant_type": "refresh_token", "refresh_token": "hpr_0_0"}, "invalid_grant"),
        (
            {"grant_type": "refresh_token", "refresh_token": f"hpr_{'0' * 32}_{'0' * 64}"},
            "invalid_grant",
        ),
        ({"grant_type": "authorization_code"}, "unsupported_grant_type"),
    ],
    ids=["garbage", "too short", "unknown", "another grant"],
)
async def test_a_wrong_grant_is_refused(
    client: AsyncClient, how: str, grant: dict[str, Any], error: str
) -> None:
    response = await client.request("POST", "/token", **{how: grant})  # type: ignore[arg-type] # json or data
    problem = assert_problem(response, 400, error)
    assert problem["error_description"] == problem["message"]
    assert "www-authenticate" not in response.headers


@on_sqlite
@pytest.mark.parametrize("grant_type", [["password"], {"password": 1}, 1])
async def test_a_grant_type_is_a_string(client: AsyncClient, grant_type: object) -> None:
    response = await client.post("/token", json={**ARTHUR, "grant_type": grant_type})
    assert_problem(response, 400, "unsupported_grant_type")


@on_sqlite
async def test_a_refresh_token_must_be_there_and_of_a_sensible_size(client: AsyncClient) -> None:
    for refresh_token in ({}, {"refresh_token": "a" * 201}):
        grant = {"grant_type": "refresh_token", **refresh_token}
        response = await client.post("/token", data=grant)
        assert_problem(response, 400, "invalid_request")
        assert_problem(await client.post("/token", json=grant), 422, "invalid_request")


async def test_a_rejected_renewal_releases_its_lock(app: FastAPI, clock: Clock) -> None:
    async with app.state.database.session() as session:
        sessions: Sessions = app.state.services.sessions
        refresh_token = f"hpr_{'0' * 32}_{'0' * 64}"
        assert await sessions.refresh(RequestContext(session, clock()), refresh_token) is None
        assert not session.in_transaction()


async def test_a_user_who_is_removed_or_disabled_during_a_login_gets_no_session(
    app: FastAPI, client: AsyncClient, users: Users, clock: Clock
) -> None:
    """As the password is checked, which takes a while, so nothing is locked meanwhile. That
    another user is in the same epoch does not help."""
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
