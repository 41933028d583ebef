"""Rates: each action that writes rows has a number per hour, and a 429 that says when it works
again. Beyond the number, there is still a way to revoke stolen tokens.
"""

import asyncio
from collections import Counter
from datetime import timedelta

import pytest
from fastapi import FastAPI
from httpx import AsyncClient, Response
from sqlalchemy import func, select, update

from app.accounts.invitations import service as invitations_service
from app.credentials.second_factors import service as second_factors_service
from app.credentials.sessions import service as sessions_service
from app.database.engine import begin_write
from app.database.job_lock import JobLock
from app.maintenance.retention.service import Retention
from app.security.rate_limits import service
from app.security.rate_limits.errors import TooManyAttemptsError
from app.security.rate_limits.limits import (
    NEW_INVITATION,
    NEW_SECRET,
    REGISTRATIONS,
    SESSION_REFRESH,
    UNFINISHED_LOGIN,
    Rate,
)
from app.security.rate_limits.models import AttemptCounter
from app.security.rate_limits.rates import IS_RATE
from app.security.rate_limits.service import (
    enforce_limit,
)
from app.settings import Settings
from app.users import service as users_service
from tests.support.apps import started_client
from tests.support.low_rates import INTERVAL, MINUTE, PER_HOUR, actions, assert_refused, settings
from tests.support.markers import on_postgresql, on_sqlite
from tests.support.openapi import DOCUMENT
from tests.support.settings import Clock
from tests.support.users import (
    ARTHUR,
    GALAHAD,
    LANCELOT,
    Person,
    bearer,
    claims_of,
    log_in,
    open_session,
    refresh,
    register,
    revoked,
    token_is_valid,
)

__all__ = ["settings"]


async def revoke(client: AsyncClient, token: str) -> Response:
    return await client.post("/revoke", data={"token": token})


async def tokens_of(client: AsyncClient, person: Person, number: int) -> list[str]:
    """Tokens of one session. The last one is its refresh token."""
    session = await open_session(client, person)
    tokens = [session["access_token"]]
    while len(tokens) < number:
        session = (await refresh(client, session["refresh_token"])).json()
        tokens.append(session["access_token"])
    return [*tokens, session["refresh_token"]]


def reused(refresh_token: str) -> str:
    """An older refresh token of the same session, as far as the service can tell."""
    return f"{refresh_token[:37]}{'0' * 64}"


def use_up(rate: Rate, clock: Clock) -> int:
    """The number of actions that are allowed at once."""
    allowed_at, times = clock.now - rate.slack, 0
    while allowed_at <= clock.now:
        allowed_at, times = rate.after(allowed_at, clock.now), times + 1
    return times


@pytest.mark.parametrize(
    "rate",
    [
        SESSION_REFRESH,
        UNFINISHED_LOGIN,
        NEW_SECRET,
        NEW_INVITATION,
        REGISTRATIONS,
        Rate.hourly(600),
    ],
)
def test_a_rate_allows_its_burst_and_then_one_action_per_interval(rate: Rate, clock: Clock) -> None:
    assert use_up(rate, clock) == rate.burst
    allowed_at = clock.now - rate.slack
    allowed = 0
    for _ in range(3 * 3600):  # an attempt each second for three hours
        if allowed_at <= clock.now:
            allowed_at = rate.after(allowed_at, clock.now)
            allowed += 1
        clock.now += timedelta(seconds=1)
    assert allowed <= rate.burst + 3 * timedelta(hours=1) / rate.interval


async def test_a_limited_number_of_access_tokens_is_revoked_per_hour_and_the_rest_stays_valid(
    client: AsyncClient, clock: Clock
) -> None:
    await register(client, LANCELOT)
    await register(client, GALAHAD)
    *tokens, refused = (await tokens_of(client, LANCELOT, PER_HOUR + 1))[:-1]
    for token in tokens:
        assert (await revoke(client, token)).status_code == 200
    assert_refused(await revoke(client, refused), INTERVAL)
    assert len(await revoked(client)) == PER_HOUR
    assert await token_is_valid(client, refused)
    assert (await revoke(client, tokens[0])).status_code == 200  # is revoked already
    assert (await revoke(client, await log_in(client, GALAHAD))).status_code == 200
    clock.advance(INTERVAL)
    assert (await revoke(client, refused)).status_code == 200
    assert not await token_is_valid(client, refused)


@on_sqlite
async def test_stolen_tokens_can_be_revoked_beyond_the_limit(
    client: AsyncClient, arthurs_token: str, subtests: pytest.Subtests
) -> None:
    arthurs = bearer(arthurs_token)
    for way in ("everywhere", "session", "refresh token", "reuse", "disabling"):
        with subtests.test(way):
            lancelot = {**LANCELOT, "username": way}
            user_id = await register(client, lancelot)
            before = len(await revoked(client))
            *tokens, refresh_token = await tokens_of(client, lancelot, PER_HOUR + 1)
            for token in tokens[:-1]:
                await revoke(client, token)
            assert (await revoke(client, tokens[-1])).status_code == 429
            own = bearer(tokens[-1])
            if way == "everywhere":
                answer = await client.post("/me/logout-everywhere", headers=own)
            elif way == "session":
                session_id = claims_of(tokens[-1])["sid"]
                answer = await client.delete(f"/me/sessions/{session_id}", headers=own)
            elif way == "refresh token":
                answer = await revoke(client, refresh_token)
            elif way == "reuse":
                answer = await refresh(client, reused(refresh_token))
            else:
                path = f"/toggle-user-permission/{user_id}/0"
                answer = await client.put(path, headers=arthurs)
            assert answer.status_code == (400 if way == "reuse" else 200), answer.text
            assert not await token_is_valid(client, tokens[-1])
            assert (await refresh(client, refresh_token)).status_code == 400
            assert len(await revoked(client)) == before + PER_HOUR + 1


async def test_simultaneous_revocations_are_limited_like_single_ones(client: AsyncClient) -> None:
    await register(client, LANCELOT)
    tokens = (await tokens_of(client, LANCELOT, PER_HOUR + 2))[:-1]
    answers = await asyncio.gather(*(revoke(client, token) for token in tokens))
    assert Counter(answer.status_code for answer in answers) == {200: PER_HOUR, 429: 2}
    assert len(await revoked(client)) == PER_HOUR


async def test_logging_out_everywhere_with_one_token_many_times_at_once_adds_one_entry(
    client: AsyncClient,
) -> None:
    await register(client, LANCELOT)
    headers = bearer(await log_in(client, LANCELOT))
    calls = (client.post("/me/logout-everywhere", headers=headers) for _ in range(3))
    answers = [answer.status_code for answer in await asyncio.gather(*calls)]
    assert sorted(answers) == [200] + [401] * 2
    assert len(await revoked(client)) == 1


async def test_renewals_of_a_session_are_limited_and_a_rejected_one_is_not_counted(
    client: AsyncClient, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    rate = Rate(3, MINUTE / 4)
    monkeypatch.setattr(sessions_service, "SESSION_REFRESH", rate)
    await register(client, LANCELOT)
    other = await open_session(client, LANCELOT)
    refresh_token = (await tokens_of(client, LANCELOT, rate.burst + 1))[-1]
    for _ in range(2):
        assert_refused(await refresh(client, refresh_token), rate.interval)
    assert (await refresh(client, other["refresh_token"])).status_code == 200
    clock.advance(rate.interval)
    assert (await refresh(client, refresh_token)).status_code == 200
    # Within the grace period, the same token can be sent again. The renewal counts again.
    assert_refused(await refresh(client, refresh_token), rate.interval)
    assert await revoked(client) == []


@on_sqlite  # these three differ only in the action that they count
async def test_secrets_for_a_second_factor_are_counted(
    app: FastAPI, client: AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(second_factors_service, "NEW_SECRET", Rate(2, 3 * MINUTE))
    await register(client, LANCELOT)
    headers = bearer(await log_in(client, LANCELOT))
    proof = {"password": LANCELOT["password"]}
    for _ in range(2):
        made = await client.post("/me/second-factor", json=proof, headers=headers)
        assert made.status_code == 201
    assert_refused(await client.post("/me/second-factor", json=proof, headers=headers), 3 * MINUTE)
    assert (await actions(app))["second_factor.enrol"] == 2


@on_sqlite
async def test_invitations_are_counted_for_the_administrator(
    client: AsyncClient, arthurs_token: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(invitations_service, "NEW_INVITATION", Rate(3, MINUTE))
    headers = bearer(arthurs_token)
    for _ in range(3):
        assert (await client.post("/invitations", json={}, headers=headers)).status_code == 201
    assert_refused(await client.post("/invitations", json={}, headers=headers), MINUTE)
    listed = await client.get("/invitations", headers=headers)
    assert len(listed.json()["invitations"]) == 3


@on_sqlite
async def test_registrations_are_limited_together_except_by_administrators_and_invitations(
    client: AsyncClient, arthurs_token: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(users_service, "REGISTRATIONS", Rate(2, MINUTE))
    headers = bearer(arthurs_token)
    invited = await client.post("/invitations", json={}, headers=headers)
    await register(client, LANCELOT)
    taken = await client.post("/register-user", json=LANCELOT)
    assert taken.status_code == 409  # which does not count
    await register(client, GALAHAD)
    gawain = {**GALAHAD, "username": "gawain"}
    assert_refused(await client.post("/register-user", json=gawain), MINUTE)
    created = await client.post("/users", json={**gawain, "username": "kay"}, headers=headers)
    assert created.status_code == 201
    with_code = {**gawain, "invitation": invited.json()["code"]}
    assert (await client.post("/register-user", json=with_code)).status_code == 201


@on_postgresql
async def test_simultaneous_operations_cause_no_deadlock(settings: Settings, clock: Clock) -> None:
    """Operations of one user lock the user, sessions, the counter and the feed, in this order."""
    many = settings.model_copy(update={"user_actions_per_hour": 600})
    async with started_client(many, clock) as client:
        user_id = await register(client, LANCELOT)
        sessions = [await open_session(client, LANCELOT) for _ in range(9)]
        token = await log_in(client, LANCELOT)  # so some of the further ones are written down
        headers, arthurs = bearer(token), bearer(await log_in(client, ARTHUR))
        listed = (await client.get("/me/sessions", headers=headers)).json()["sessions"]
        staying = {**LANCELOT, "scope": "offline_access"}
        calls = [
            *(client.post("/token", json=LANCELOT) for _ in range(4)),
            *(client.post("/token", json=staying) for _ in range(4)),
            *(refresh(client, session["refresh_token"]) for session in sessions[2:]),
            *(revoke(client, session["access_token"]) for session in sessions[2:]),
            *(revoke(client, session["refresh_token"]) for session in sessions[6:]),
            *(refresh(client, reused(session["refresh_token"])) for session in sessions[:2]),
            *(client.delete(f"/me/sessions/{it['id']}", headers=headers) for it in listed[::3]),
            *(client.post(f"/users/{user_id}/revoke-tokens", headers=arthurs) for _ in range(2)),
        ]
        answers = await asyncio.gather(*calls)
    # 401 is for a session that is opened, or revoked, while all tokens are revoked.
    assert {answer.status_code for answer in answers} <= {200, 400, 401, 404}


async def test_a_rate_is_deleted_once_it_has_no_effect_and_not_because_of_other_counters(
    app: FastAPI, settings: Settings, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    rate = Rate(2, MINUTE)

    async def try_it() -> bool:
        async with app.state.database.session() as session:
            await begin_write(session)
            try:
                await enforce_limit(session, "test", "1", rate)
            except TooManyAttemptsError:
                return False
            await session.commit()
            return True

    async def rows() -> int:
        async with app.state.database.session() as session:
            query = select(func.count()).where(AttemptCounter.failures == IS_RATE)
            return await session.scalar(query) or 0

    assert [await try_it() for _ in range(3)] == [True, True, False]
    async with app.state.database.session() as session:  # which others keep for longer
        await begin_write(session)
        latest = clock.now + timedelta(days=1)
        values = {"blocked_until": clock.now, "expires_at": latest}
        session.add_all(
            AttemptCounter(key=f"other {number}", failures=failures, **values)
            for number, failures in enumerate([3, 3, 3, 0, 0, 0])  # 0 is a known address
        )
        await session.commit()
    monkeypatch.setattr(service, "MAX_ROWS", 1)
    housekeeping = Retention(app.state.database, settings)
    async with app.state.database.session() as session:
        await begin_write(session)
        await session.execute(update(JobLock).values(expires_at=clock.now))
        await session.commit()
    assert await housekeeping.run_once()
    assert not await try_it()
    clock.advance(rate.interval)
    assert await housekeeping.run_once()
    assert [await try_it() for _ in range(2)] == [True, False]
    clock.advance(rate.burst * rate.interval)
    assert await housekeeping.run_once()
    assert await rows() == 0
    assert await try_it()


def test_each_limited_call_documents_its_429(subtests: pytest.Subtests) -> None:
    paths = DOCUMENT["paths"]
    for method, path in (
        ("post", "/token"),
        ("post", "/revoke"),
        ("post", "/register-user"),
        ("post", "/invitations"),
        ("post", "/me/password"),
        ("patch", "/me"),
        ("delete", "/me"),
        ("post", "/me/second-factor"),
        ("delete", "/me/second-factor"),
        ("post", "/me/second-factor/recovery-codes"),
        ("post", "/me/email-verification"),
        ("post", "/password-resets"),
    ):
        with subtests.test(f"{method} {path}"):
            refusal = paths[path][method]["responses"]["429"]
            assert "too_many_attempts" in refusal["content"]["application/json"]["examples"]
            assert "Retry-After" in refusal["headers"]
