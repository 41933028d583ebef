"""Operations on one user, or by one, do not change the other.

Each test has two users with a second factor and a session, so it fails if a query lacks the
condition on the user.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from fastapi import FastAPI
from httpx import AsyncClient, Response
from passlib.hash import bcrypt
from sqlalchemy import select, update
from sqlalchemy.ext.asyncio import AsyncSession

from app.accounts.invitations import service as invitations_service
from app.audit.models import Entry
from app.context import RequestContext
from app.credentials.second_factors import service as second_factors_service
from app.credentials.sessions.models import Session
from app.database.engine import begin_write
from app.database.job_lock import LOCK_PERIOD
from app.login import password_grant
from app.maintenance.retention.service import Retention
from app.security.rate_limits.limits import Rate
from app.settings import Settings
from app.tokens.errors import InvalidTokenError
from app.users.models import User
from app.users.service import Users
from tests.support.apps import client_of
from tests.support.authenticator import (
    STEP,
    EnrolledUser,
    begin,
    confirm,
    log_in_with,
    register_enrolled,
)
from tests.support.login_attempts import HOME, set_small_limits
from tests.support.settings import Clock
from tests.support.users import (
    ARTHUR,
    assert_problem,
    bearer,
    claims_of,
    log_in,
    open_session,
    refresh,
    token_is_valid,
)

# The conditions are the same on both databases.
pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)

MINUTE = timedelta(minutes=1)

TwoUsers = tuple[EnrolledUser, EnrolledUser]


@asynccontextmanager
async def writing(app: FastAPI) -> AsyncIterator[AsyncSession]:
    """Writes to the database past the service."""
    async with app.state.database.session() as session:
        await begin_write(session)
        yield session
        await session.commit()


async def call(
    client: AsyncClient, user: EnrolledUser, method: str, path: str, **body: Any
) -> Response:
    return await client.request(method, path, json=body or None, headers=bearer(user.token))


async def second_factor(client: AsyncClient, user: EnrolledUser) -> tuple[bool, int]:
    """Whether the user has one, and how many recovery codes are left."""
    response = await call(client, user, "GET", "/me/second-factor")
    assert response.status_code == 200, response.text
    state = response.json()
    return state["enabled"], state["recovery_codes_left"]


async def assert_untouched(
    client: AsyncClient, user: EnrolledUser, *, codes_left: int = 10
) -> EnrolledUser:
    """Token, session, second factor and password are unchanged, except for `codes_left` recovery
    codes: this uses one, and refreshes the session. Returns the user with the new refresh token."""
    profile = await call(client, user, "GET", "/me")
    assert profile.status_code == 200
    assert profile.json()["email"] == user.person["email"]
    assert await second_factor(client, user) == (True, codes_left)
    refreshed = await refresh(client, user.refresh_token)
    assert refreshed.status_code == 200
    code = user.authenticator.recovery_codes[codes_left - 1]
    assert (await log_in_with(client, user.person, code)).status_code == 200
    return replace(user, refresh_token=refreshed.json()["refresh_token"])


async def log_in_again(client: AsyncClient, user: EnrolledUser, clock: Clock) -> EnrolledUser:
    """The user with a new session."""
    clock.advance(STEP)  # a code works once
    session = await open_session(client, {**user.person, "otp": user.authenticator.code()})
    return replace(user, token=session["token"], refresh_token=session["refresh_token"])


async def test_codes_and_recovery_codes_count_for_their_own_user_only(
    client: AsyncClient, clock: Clock, two_users: TwoUsers, subtests: pytest.Subtests
) -> None:
    lancelot, galahad = two_users
    with subtests.test("codes"):
        for user, other in (two_users, two_users[::-1]):
            refused = await log_in_with(client, other.person, user.authenticator.code())
            assert_problem(refused, 401, "invalid_grant")
        # Both in the same half minute: the code of one user does not use up that of the other.
        for user in two_users:
            code = user.authenticator.code()
            assert (await log_in_with(client, user.person, code)).status_code == 200
    with subtests.test("recovery codes"):
        for user, other in (two_users, two_users[::-1]):
            for code in user.authenticator.recovery_codes[:3]:
                refused = await log_in_with(client, other.person, code)
                assert_problem(refused, 401, "invalid_grant")
        clock.advance(MINUTE)  # the delay after these failures
        for user in two_users:
            assert await second_factor(client, user) == (True, 10)
            code = user.authenticator.recovery_codes[0]
            assert (await log_in_with(client, user.person, code)).status_code == 200
    with subtests.test("the number of recovery codes and new ones"):
        await log_in_with(client, lancelot.person, lancelot.authenticator.recovery_codes[1])
        assert await second_factor(client, lancelot) == (True, 8)
        assert await second_factor(client, galahad) == (True, 9)
        path = "/me/second-factor/recovery-codes"
        response = await call(client, lancelot, "POST", path, **lancelot.credentials)
        assert response.status_code == 200, response.text
        assert await second_factor(client, lancelot) == (True, 10)
        await assert_untouched(client, galahad, codes_left=9)


async def test_a_second_factor_is_removed_and_confirmed_for_its_own_user_only(
    client: AsyncClient, clock: Clock, two_users: TwoUsers, subtests: pytest.Subtests
) -> None:
    lancelot, galahad = two_users
    path = "/me/second-factor"
    with subtests.test("removed by the user"):
        await call(client, lancelot, "DELETE", path, **lancelot.credentials)
        await assert_without_second_factor(client, lancelot)
        galahad = await assert_untouched(client, galahad)
    with subtests.test("confirmed"):  # both have a secret that is not confirmed yet
        await call(client, galahad, "DELETE", path, **galahad.credentials)
        (his_app, lancelots), (other_app, galahads) = [
            await begin(client, user.person, clock) for user in two_users
        ]
        assert_problem(await confirm(client, lancelots, other_app.code()), 403, "wrong_code")
        assert (await confirm(client, lancelots, his_app.code())).status_code == 200
        assert await token_is_valid(client, galahads)
        assert (await client.post("/token", json=galahad.person)).status_code == 200
        confirmed = await confirm(client, galahads, other_app.code())
        other_app.recovery_codes = confirmed.json()["recovery_codes"]
    with subtests.test("removed by an administrator"):
        lancelot = await log_in_again(client, replace(lancelot, authenticator=his_app), clock)
        galahad = await log_in_again(client, replace(galahad, authenticator=other_app), clock)
        headers = bearer(await log_in(client, ARTHUR))
        await client.delete(f"/users/{lancelot.id}/second-factor", headers=headers)
        await assert_without_second_factor(client, lancelot)
        await assert_untouched(client, galahad)


async def assert_without_second_factor(client: AsyncClient, user: EnrolledUser) -> None:
    """Without a valid token too: that of `user` is from before."""
    assert not await token_is_valid(client, user.token)
    token = await log_in(client, user.person)
    assert await second_factor(client, replace(user, token=token)) == (False, 0)


async def test_a_user_lists_revokes_and_refreshes_own_sessions_only(
    client: AsyncClient, clock: Clock, two_users: TwoUsers, subtests: pytest.Subtests
) -> None:
    lancelot, galahad = two_users
    with subtests.test("listed, refreshed and revoked by id"):
        for user, other in (two_users, two_users[::-1]):
            listed = (await call(client, user, "GET", "/me/sessions")).json()["sessions"]
            assert [session["id"] for session in listed] == [claims_of(user.token)["sid"]]
            path = f"/me/sessions/{claims_of(other.token)['sid']}"
            assert_problem(await call(client, user, "DELETE", path), 404, "session_not_found")
            renewed = (await refresh(client, user.refresh_token)).json()
            for name in ("sub", "sid", "preferred_username", "epoch"):
                assert claims_of(renewed["token"])[name] == claims_of(user.token)[name]
        path = f"/me/sessions/{claims_of(lancelot.token)['sid']}"
        assert (await call(client, lancelot, "DELETE", path)).status_code == 200
        galahad = await assert_untouched(client, galahad)
    first = await log_in_again(client, lancelot, clock)
    second = await log_in_again(client, lancelot, clock)
    with subtests.test("refreshed with the secret of the other user"):
        invented = first.refresh_token[:-64] + galahad.refresh_token[-64:]
        assert_problem(await refresh(client, invented), 400, "invalid_grant")
        assert_problem(await refresh(client, first.refresh_token), 400, "invalid_grant")
        galahad = await assert_untouched(client, galahad, codes_left=9)
    with subtests.test("revoked with the secret of the other user"):
        invented = second.refresh_token[:-64] + galahad.refresh_token[-64:]
        assert (await client.post("/revoke", data={"token": invented})).json()["revoked"]
        assert_problem(await refresh(client, second.refresh_token), 400, "invalid_grant")
        await assert_untouched(client, galahad, codes_left=8)


async def test_the_tokens_and_sessions_of_one_user_are_revoked_and_those_of_the_other_are_not(
    client: AsyncClient, clock: Clock, two_users: TwoUsers, subtests: pytest.Subtests
) -> None:
    lancelot, galahad = two_users
    by_arthur = bearer(await log_in(client, ARTHUR))
    for number, action in enumerate(
        ("logs out everywhere", "is logged out", "is disabled", "is removed", "leaves")
    ):
        if action == "leaves":
            lancelot = await register_enrolled(client, lancelot.person, clock)
        elif number:
            path = f"/toggle-user-permission/{lancelot.id}/1"
            await client.put(path, headers=by_arthur)
            lancelot = await log_in_again(client, lancelot, clock)
        with subtests.test(action):
            match action:
                case "logs out everywhere":
                    done = await call(client, lancelot, "POST", "/me/logout-everywhere")
                case "is logged out":
                    path = f"/users/{lancelot.id}/revoke-tokens"
                    done = await client.post(path, headers=by_arthur)
                case "is disabled":
                    path = f"/toggle-user-permission/{lancelot.id}/0"
                    done = await client.put(path, headers=by_arthur)
                case "is removed":
                    path = f"/remove-user/{lancelot.id}"
                    done = await client.delete(path, headers=by_arthur)
                case _:
                    done = await call(client, lancelot, "DELETE", "/me", **lancelot.credentials)
            assert done.status_code == 200, done.text
            assert not await token_is_valid(client, lancelot.token)
            assert_problem(await refresh(client, lancelot.refresh_token), 400, "invalid_grant")
            galahad = await assert_untouched(client, galahad, codes_left=10 - number)


async def test_a_user_changes_the_own_account_only(
    app: FastAPI,
    client: AsyncClient,
    clock: Clock,
    two_users: TwoUsers,
    subtests: pytest.Subtests,
) -> None:
    lancelot, galahad = two_users
    new_password = "guinevere in the garden"
    for number, (method, path, change) in enumerate(
        (
            ("PATCH", "/me", {"email": "lake@avalon.example"}),
            ("POST", "/me/password", {"new_password": new_password}),
        )
    ):
        with subtests.test(f"{method} {path}"):
            clock.advance(STEP)
            changed = await call(client, lancelot, method, path, **lancelot.credentials, **change)
            assert changed.status_code == 200, changed.text
            galahad = await assert_untouched(client, galahad, codes_left=10 - number)
    with subtests.test("a login upgrades the hash"):  # both were imported with the same one
        old_hash = bcrypt.using(rounds=4).hash(new_password)
        is_either = User.id.in_([lancelot.id, galahad.id])
        async with writing(app) as session:
            await session.execute(update(User).where(is_either).values(password_hash=old_hash))
        clock.advance(STEP)
        person = {**lancelot.person, "password": new_password}
        code = lancelot.authenticator.code()
        assert (await log_in_with(client, person, code)).status_code == 200
        async with app.state.database.session() as session:
            hashes = select(User.password_hash).where(is_either).order_by(User.id)
            upgraded, kept = (await session.scalars(hashes)).all()
        assert upgraded.startswith("$argon2id$")
        assert kept == old_hash


async def test_users_with_the_same_token_version_are_told_apart(
    app: FastAPI,
    client: AsyncClient,
    users: Users,
    context: RequestContext,
    settings: Settings,
    clock: Clock,
    two_users: TwoUsers,
) -> None:
    """Token versions are random. Nothing requires them to differ."""
    lancelot, galahad = two_users
    async with writing(app) as session:
        await session.execute(update(User).values(token_version=7))
    tokens = []
    for user in two_users:
        person = {**user.person, "otp": user.authenticator.code()}
        opened = await open_session(client, person)
        listed = await client.get("/me/sessions", headers=bearer(opened["token"]))
        assert [one["id"] for one in listed.json()["sessions"]] == [
            claims_of(opened["token"])["sid"]
        ]
        assert (await refresh(client, opened["refresh_token"])).status_code == 200
        tokens.append(opened["token"])
    async with writing(app) as session:
        is_lancelot = User.id == lancelot.id
        await session.execute(update(User).where(is_lancelot).values(is_enabled=False))
    with pytest.raises(InvalidTokenError):
        await users.require_active(context, app.state.tokens.decode(tokens[0], clock()))
    await users.require_active(context, app.state.tokens.decode(tokens[1], clock()))
    async with writing(app) as session:
        await session.execute(update(User).where(is_lancelot).values(token_version=8))
    clock.advance(LOCK_PERIOD)
    assert await Retention(app.state.database, settings).run_once()
    async with app.state.database.session() as session:
        assert (await session.scalars(select(Session.user_id))).all() == [galahad.id]


async def test_a_users_audit_log_has_only_entries_by_or_about_the_user(
    app: FastAPI, client: AsyncClient, two_users: TwoUsers
) -> None:
    by_arthur = bearer(await log_in(client, ARTHUR))
    for user in two_users:
        # What the administrator does is about the user, who did not do it.
        await client.put(f"/toggle-user-permission/{user.id}/1", headers=by_arthur)
        await client.patch(f"/users/{user.id}", json={"email_verified": True}, headers=by_arthur)
    for user in two_users:
        async with app.state.database.session() as session:
            concerned = (Entry.subject_id == user.id) | (Entry.actor_id == user.id)
            expected = (await session.scalars(select(Entry.id).where(concerned))).all()
        own = (await call(client, user, "GET", "/me/audit")).json()["entries"]
        assert sorted(entry["id"] for entry in own) == sorted(expected)
        assert {entry["subject_id"] for entry in own} == {user.id}
        assert {entry["actor_id"] for entry in own} == {None, user.id, 1}
        for name in ("subject_id", "actor_id"):
            found = await client.get("/audit", params={name: user.id}, headers=by_arthur)
            entries = found.json()["entries"]
            assert entries
            assert {entry[name] for entry in entries} == {user.id}
    # What an administrator does to others is in the administrator's audit log too.
    for user in two_users:
        path = f"/users/{user.id}/revoke-tokens"
        assert (await client.post(path, headers=by_arthur)).status_code == 200
    own = (await client.get("/me/audit", headers=by_arthur)).json()["entries"]
    ended = [entry["subject_id"] for entry in own if entry["action"] == "user.revoke_tokens"]
    assert ended == [two_users[1].id, two_users[0].id]


async def test_failed_logins_and_known_addresses_count_for_their_own_account_only(
    app: FastAPI,
    client: AsyncClient,
    two_users: TwoUsers,
    monkeypatch: pytest.MonkeyPatch,
    subtests: pytest.Subtests,
) -> None:
    limits = set_small_limits(monkeypatch)
    lancelot, galahad = two_users
    with subtests.test("at an address where both have logged in before"):
        wrong = {**lancelot.person, "password": "wrong"}
        for _ in range(limits["ACCOUNT_AT_ADDRESS"].allowed):
            assert_problem(await client.post("/token", json=wrong), 401, "invalid_grant")
        assert_problem(await client.post("/token", json=wrong), 429, "too_many_attempts")
        await client.post("/token", json={**galahad.person, "password": "wrong"})
        await assert_untouched(client, galahad)
        assert_problem(await client.post("/token", json=wrong), 429, "too_many_attempts")
    with subtests.test("at an address that is known for one of them"):
        async with client_of(app, HOME) as home:
            code = lancelot.authenticator.code()
            assert (await log_in_with(home, lancelot.person, code)).status_code == 200
            for user, limit in ((galahad, "ACCOUNT"), (lancelot, "ACCOUNT_AT_ADDRESS")):
                free, wrong = limits[limit].allowed, {**user.person, "password": "wrong"}
                answers = [
                    (await home.post("/token", json=wrong)).status_code for _ in range(free + 1)
                ]
                assert answers == [401] * free + [429]


async def test_the_rates_are_counted_for_each_user(
    app: FastAPI,
    client: AsyncClient,
    clock: Clock,
    two_users: TwoUsers,
    monkeypatch: pytest.MonkeyPatch,
    subtests: pytest.Subtests,
) -> None:
    with subtests.test("logins without the code"), monkeypatch.context() as patch:
        patch.setattr(password_grant, "UNFINISHED_LOGIN", Rate(1, MINUTE))
        for user in two_users:
            unfinished = [await client.post("/token", json=user.person) for _ in range(2)]
            assert_problem(unfinished[0], 401, "mfa_required")
            assert_problem(unfinished[1], 429, "too_many_attempts")
    with subtests.test("revocations"), monkeypatch.context() as patch:
        tokens = []
        for user in two_users:
            renewed = await refresh(client, user.refresh_token)
            tokens.append([user.token, renewed.json()["token"]])
        patch.setattr(app.state.services.login_limiter, "actions", Rate(1, MINUTE))
        for own in tokens:
            answers = [await client.post("/revoke", data={"token": token}) for token in own]
            assert [answer.status_code for answer in answers] == [200, 429]
    with subtests.test("invitations"), monkeypatch.context() as patch:
        patch.setattr(invitations_service, "NEW_INVITATION", Rate(1, MINUTE))
        by_arthur = bearer(await log_in(client, ARTHUR))
        administrators = []
        for user in two_users:
            await client.patch(f"/users/{user.id}", json={"is_admin": True}, headers=by_arthur)
            administrators.append(await log_in_again(client, user, clock))
            headers = bearer(administrators[-1].token)
            asked = [await client.post("/invitations", json={}, headers=headers) for _ in range(2)]
            assert [answer.status_code for answer in asked] == [201, 429]
    clock.advance(STEP)
    with subtests.test("new secrets"), monkeypatch.context() as patch:
        patch.setattr(second_factors_service, "NEW_SECRET", Rate(1, MINUTE))
        for user in administrators:
            path = "/me/second-factor"
            await call(client, user, "DELETE", path, **user.credentials)
            headers = bearer(await log_in(client, user.person))
            sent = {"password": user.person["password"]}
            asked = [await client.post(path, json=sent, headers=headers) for _ in range(2)]
            assert [answer.status_code for answer in asked] == [201, 429]
