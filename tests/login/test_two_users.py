"""What is done to one user, or by one, leaves the other user as it is.

Each test has two users who both have a second factor and a session, so that it fails when a query
lacks the condition that names the user.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
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
from app.retention.service import Retention
from app.security.rate_limits.limits import ACCOUNT, ACCOUNT_AT_ADDRESS, Rate
from app.settings import Settings
from app.tokens.errors import InvalidTokenError
from app.users.models import User
from app.users.service import Users
from tests.support.apps import client_of
from tests.support.authenticator import Authenticator, EnrolledUser, confirm, log_in_with
from tests.support.settings import Clock
from tests.support.users import (
    ARTHUR,
    assert_problem,
    bearer,
    log_in,
    open_session,
    renew,
    said_in,
    token_holds,
)

# The conditions are the same on both databases.
pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)

MINUTE = timedelta(minutes=1)
NEW_PASSWORD = "guinevere in the garden"

TwoUsers = tuple[EnrolledUser, EnrolledUser]


@asynccontextmanager
async def writing(app: FastAPI) -> AsyncIterator[AsyncSession]:
    """Straight into the database."""
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


async def assert_untouched(client: AsyncClient, user: EnrolledUser) -> None:
    """Token, session, second factor and password are as they were."""
    profile = await call(client, user, "GET", "/me")
    assert profile.status_code == 200
    assert profile.json()["email"] == user.person["email"]
    assert await second_factor(client, user) == (True, 10)
    assert (await renew(client, user.refresh_token)).status_code == 200
    code = user.authenticator.recovery_codes[0]
    assert (await log_in_with(client, user.person, code)).status_code == 200


async def test_a_recovery_code_counts_for_its_own_user_only(
    client: AsyncClient, clock: Clock, two_users: TwoUsers
) -> None:
    for user, other in (two_users, two_users[::-1]):
        for code in user.authenticator.recovery_codes:
            refused = await log_in_with(client, other.person, code)
            assert_problem(refused, 401, "invalid_grant")
    clock.advance(MINUTE)  # so many refused logins cost each of them a delay
    for user in two_users:
        assert await second_factor(client, user) == (True, 10)
        code = user.authenticator.recovery_codes[0]
        assert (await log_in_with(client, user.person, code)).status_code == 200


async def test_a_code_counts_for_its_own_user_only(
    client: AsyncClient, two_users: TwoUsers
) -> None:
    lancelot, galahad = two_users
    for user, other in (two_users, two_users[::-1]):
        refused = await log_in_with(client, other.person, user.authenticator.code())
        assert_problem(refused, 401, "invalid_grant")
    # Both in the same half minute: the code of one user spends none of the other's.
    for user in (lancelot, galahad):
        code = user.authenticator.code()
        assert (await log_in_with(client, user.person, code)).status_code == 200


async def test_recovery_codes_are_counted_and_replaced_for_their_own_user_only(
    client: AsyncClient, two_users: TwoUsers
) -> None:
    lancelot, galahad = two_users
    await log_in_with(client, lancelot.person, lancelot.authenticator.recovery_codes[0])
    assert await second_factor(client, lancelot) == (True, 9)
    assert await second_factor(client, galahad) == (True, 10)
    path = "/me/second-factor/recovery-codes"
    response = await call(client, lancelot, "POST", path, **lancelot.credentials)
    assert response.status_code == 200, response.text
    assert await second_factor(client, lancelot) == (True, 10)
    await assert_untouched(client, galahad)


@pytest.mark.parametrize("by_administrator", [False, True], ids=["by its user", "by another"])
async def test_a_second_factor_is_removed_for_its_own_user_only(
    client: AsyncClient, two_users: TwoUsers, by_administrator: bool
) -> None:
    lancelot, galahad = two_users
    if by_administrator:
        headers = bearer(await log_in(client, ARTHUR))
        path = f"/users/{lancelot.id}/second-factor"
        response = await client.delete(path, headers=headers)
    else:
        path = "/me/second-factor"
        response = await call(client, lancelot, "DELETE", path, **lancelot.credentials)
    assert response.status_code == 200, response.text
    assert not await token_holds(client, lancelot.token)
    answer = await client.post("/token", json=lancelot.person)
    assert answer.status_code == 200, answer.text
    state = await client.get("/me/second-factor", headers=bearer(answer.json()["token"]))
    assert (state.json()["enabled"], state.json()["recovery_codes_left"]) == (False, 0)
    await assert_untouched(client, galahad)


async def test_a_second_factor_is_confirmed_for_its_own_user_only(
    client: AsyncClient, clock: Clock, two_users: TwoUsers
) -> None:
    """Both have a secret that is not confirmed yet."""
    pending = []
    for user in two_users:
        await call(client, user, "DELETE", "/me/second-factor", **user.credentials)
        token = await log_in(client, user.person)
        sent = {"password": user.person["password"]}
        response = await client.post("/me/second-factor", json=sent, headers=bearer(token))
        pending.append((token, Authenticator(response.json()["otpauth_uri"], clock).code()))
    (lancelots, his_code), (galahads, other_code) = pending
    assert_problem(await confirm(client, lancelots, other_code), 403, "wrong_code")
    assert (await confirm(client, lancelots, his_code)).status_code == 200
    assert await token_holds(client, galahads)
    assert (await client.post("/token", json=two_users[1].person)).status_code == 200
    assert (await confirm(client, galahads, other_code)).status_code == 200


async def test_a_user_sees_ends_and_renews_own_sessions_only(
    client: AsyncClient, two_users: TwoUsers
) -> None:
    for user, other in (two_users, two_users[::-1]):
        listed = (await call(client, user, "GET", "/me/sessions")).json()["sessions"]
        assert [session["id"] for session in listed] == [said_in(user.token)["sid"]]
        path = f"/me/sessions/{said_in(other.token)['sid']}"
        assert_problem(await call(client, user, "DELETE", path), 404, "session_not_found")
        renewed = (await renew(client, user.refresh_token)).json()
        for name in ("sub", "sid", "preferred_username", "epoch"):
            assert said_in(renewed["token"])[name] == said_in(user.token)[name]
    lancelot, galahad = two_users
    path = f"/me/sessions/{said_in(lancelot.token)['sid']}"
    assert (await call(client, lancelot, "DELETE", path)).status_code == 200
    await assert_untouched(client, galahad)


async def test_a_used_refresh_token_ends_its_own_session_only(
    client: AsyncClient, two_users: TwoUsers
) -> None:
    lancelot, galahad = two_users
    made_up = lancelot.refresh_token[:-64] + galahad.refresh_token[-64:]
    assert_problem(await renew(client, made_up), 400, "invalid_grant")
    assert_problem(await renew(client, lancelot.refresh_token), 400, "invalid_grant")
    await assert_untouched(client, galahad)


async def test_a_secret_under_the_handle_of_another_session_revokes_that_one_alone(
    client: AsyncClient, two_users: TwoUsers
) -> None:
    """As it does when it is used to refresh."""
    lancelot, galahad = two_users
    made_up = lancelot.refresh_token[:-64] + galahad.refresh_token[-64:]
    assert (await client.post("/revoke", data={"token": made_up})).json()["revoked"]
    assert_problem(await renew(client, lancelot.refresh_token), 400, "invalid_grant")
    await assert_untouched(client, galahad)


@pytest.mark.parametrize(
    "action", ["logs out everywhere", "is logged out", "is disabled", "is removed", "leaves"]
)
async def test_the_tokens_and_sessions_of_one_user_end_when_it(
    client: AsyncClient, two_users: TwoUsers, action: str
) -> None:
    lancelot, galahad = two_users
    by_arthur = bearer(await log_in(client, ARTHUR))
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
            done = await client.delete(f"/remove-user/{lancelot.id}", headers=by_arthur)
        case _:
            done = await call(client, lancelot, "DELETE", "/me", **lancelot.credentials)
    assert done.status_code == 200, done.text
    assert not await token_holds(client, lancelot.token)
    assert_problem(await renew(client, lancelot.refresh_token), 400, "invalid_grant")
    await assert_untouched(client, galahad)


@pytest.mark.parametrize(
    ("method", "path", "change"),
    [
        ("PATCH", "/me", {"email": "lake@avalon.example"}),
        ("POST", "/me/password", {"new_password": NEW_PASSWORD}),
    ],
    ids=["address", "password"],
)
async def test_a_user_changes_the_own_account_only(
    client: AsyncClient, two_users: TwoUsers, method: str, path: str, change: dict[str, str]
) -> None:
    lancelot, galahad = two_users
    changed = await call(client, lancelot, method, path, **lancelot.credentials, **change)
    assert changed.status_code == 200, changed.text
    await assert_untouched(client, galahad)


async def test_a_hash_is_upgraded_for_the_user_who_logged_in_only(
    app: FastAPI, client: AsyncClient, two_users: TwoUsers
) -> None:
    """Both were imported with the same hash."""
    lancelot, galahad = two_users
    old_hash = bcrypt.using(rounds=4).hash(lancelot.person["password"])
    is_either = User.id.in_([lancelot.id, galahad.id])
    async with writing(app) as session:
        await session.execute(update(User).where(is_either).values(password_hash=old_hash))
    code = lancelot.authenticator.code()
    assert (await log_in_with(client, lancelot.person, code)).status_code == 200
    async with app.state.database.session() as session:
        hashes = select(User.password_hash).where(is_either).order_by(User.id)
        upgraded, kept = (await session.scalars(hashes)).all()
    assert upgraded.startswith("$argon2id$")
    assert kept == old_hash


async def test_users_whose_epochs_are_the_same_number_are_told_apart(  # noqa: PLR0917 - fixtures
    app: FastAPI,
    client: AsyncClient,
    users: Users,
    context: RequestContext,
    settings: Settings,
    clock: Clock,
    two_users: TwoUsers,
) -> None:
    """Epochs are random. Nothing depends on their being different."""
    lancelot, galahad = two_users
    async with writing(app) as session:
        await session.execute(update(User).values(token_version=7))
    tokens = []
    for user in two_users:
        person = {**user.person, "otp": user.authenticator.code()}
        opened = await open_session(client, person)
        listed = await client.get("/me/sessions", headers=bearer(opened["token"]))
        assert [one["id"] for one in listed.json()["sessions"]] == [said_in(opened["token"])["sid"]]
        assert (await renew(client, opened["refresh_token"])).status_code == 200
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


async def test_a_users_audit_log_has_what_the_user_did_or_had_done_only(
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


async def test_what_an_administrator_does_to_others_is_in_the_own_audit_log(
    client: AsyncClient, two_users: TwoUsers
) -> None:
    by_arthur = bearer(await log_in(client, ARTHUR))
    for user in two_users:
        path = f"/users/{user.id}/revoke-tokens"
        assert (await client.post(path, headers=by_arthur)).status_code == 200
    own = (await client.get("/me/audit", headers=by_arthur)).json()["entries"]
    ended = [entry["subject_id"] for entry in own if entry["action"] == "user.revoke_tokens"]
    assert ended == [two_users[1].id, two_users[0].id]


async def test_failed_logins_at_a_known_address_count_for_their_own_account_only(
    client: AsyncClient, two_users: TwoUsers
) -> None:
    """Both have logged in there before."""
    lancelot, galahad = two_users
    wrong = {**lancelot.person, "password": "wrong"}
    for _ in range(ACCOUNT_AT_ADDRESS.allowed):
        assert_problem(await client.post("/token", json=wrong), 401, "invalid_grant")
    assert_problem(await client.post("/token", json=wrong), 429, "too_many_attempts")
    await assert_untouched(client, galahad)


async def test_a_success_forgets_the_failures_of_its_own_account_only(
    client: AsyncClient, two_users: TwoUsers
) -> None:
    lancelot, galahad = two_users
    wrong = {**lancelot.person, "password": "wrong"}
    for _ in range(ACCOUNT_AT_ADDRESS.allowed):
        await client.post("/token", json=wrong)
    await client.post("/token", json={**galahad.person, "password": "wrong"})
    await assert_untouched(client, galahad)
    assert_problem(await client.post("/token", json=wrong), 429, "too_many_attempts")


async def test_an_address_is_known_for_the_accounts_that_logged_in_there_only(
    app: FastAPI, two_users: TwoUsers
) -> None:
    lancelot, galahad = two_users
    async with client_of(app, "192.0.2.7") as home:
        code = lancelot.authenticator.code()
        assert (await log_in_with(home, lancelot.person, code)).status_code == 200
        for user, free in ((galahad, ACCOUNT.allowed), (lancelot, ACCOUNT_AT_ADDRESS.allowed)):
            wrong = {**user.person, "password": "wrong"}
            answers = [(await home.post("/token", json=wrong)).status_code for _ in range(free + 1)]
            assert answers == [401] * free + [429]


async def test_logins_without_the_code_are_counted_for_each_user(
    client: AsyncClient, two_users: TwoUsers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(password_grant, "UNFINISHED_LOGIN", Rate(1, MINUTE))
    for user in two_users:
        unfinished = [await client.post("/token", json=user.person) for _ in range(2)]
        assert_problem(unfinished[0], 401, "mfa_required")
        assert_problem(unfinished[1], 429, "too_many_attempts")


async def test_new_secrets_are_counted_for_each_user(
    client: AsyncClient, two_users: TwoUsers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(second_factors_service, "NEW_SECRET", Rate(1, MINUTE))
    for user in two_users:
        await call(client, user, "DELETE", "/me/second-factor", **user.credentials)
        headers = bearer(await log_in(client, user.person))
        sent = {"password": user.person["password"]}
        asked = [await client.post("/me/second-factor", json=sent, headers=headers) for _ in "12"]
        assert [answer.status_code for answer in asked] == [201, 429]


async def test_revocations_are_counted_for_each_user(
    app: FastAPI, client: AsyncClient, two_users: TwoUsers, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokens = []
    for user in two_users:
        renewed = await renew(client, user.refresh_token)
        tokens.append([user.token, renewed.json()["token"]])
    monkeypatch.setattr(app.state.services.login_limiter, "actions", Rate(1, MINUTE))
    for own in tokens:
        answers = [await client.post("/revoke", data={"token": token}) for token in own]
        assert [answer.status_code for answer in answers] == [200, 429]


async def test_invitations_are_counted_for_each_administrator(
    client: AsyncClient, two_users: TwoUsers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(invitations_service, "NEW_INVITATION", Rate(1, MINUTE))
    by_arthur = bearer(await log_in(client, ARTHUR))
    for user in two_users:
        await client.patch(f"/users/{user.id}", json={"is_admin": True}, headers=by_arthur)
        code = user.authenticator.code()
        token = (await log_in_with(client, user.person, code)).json()["token"]
        asked = [
            await client.post("/invitations", json={}, headers=bearer(token)) for _ in range(2)
        ]
        assert [answer.status_code for answer in asked] == [201, 429]
