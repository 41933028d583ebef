"""A database that is restored, copied or replaced by a standby has another past. What was revoked
in either of the two stays revoked, and no token gets another user's account."""

import asyncio
import logging
from collections.abc import Callable
from datetime import UTC, datetime

import pytest
from click.testing import CliRunner
from fastapi import FastAPI
from httpx import AsyncClient

from app.background_jobs import wait_or_stop
from app.cli.main import main as hourpass
from app.database.engine import begin_write
from app.database.timelines import IDS_AFTER_BACKUP
from app.maintenance.recovery import service as recovery
from app.tokens.revocations import cache
from hourpass import Guard, InvalidTokenError
from tests.support.apps import context_in, started_client
from tests.support.databases import Twin, twin
from tests.support.guards import comes_true, refusal_of
from tests.support.key_calls import KeyCalls, keys_of, sids_of
from tests.support.markers import on_sqlite
from tests.support.revocation_feed import answers, lists
from tests.support.running_service import RunningService, running_service
from tests.support.settings import CHEAP_HASHING, Clock, make_settings
from tests.support.users import (
    ARTHUR,
    GALAHAD,
    LANCELOT,
    assert_problem,
    bearer,
    claims_of,
    kid_of,
    log_in,
    open_session,
    refresh,
    register,
    revoked,
    token_is_valid,
    user_revocation,
)

__all__ = ["twin"]

HS256 = {"signing_algorithm": "HS256", "hs256_secret": "what Arthur and his knights all know"}


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before a worker polls again after an error, and between two searches for lost revocations."""

    async def wait_a_tenth(stopping: asyncio.Event, seconds: float) -> bool:
        return await wait_or_stop(stopping, seconds / 10)

    for module in (cache, recovery):
        monkeypatch.setattr(module, "wait_or_stop", wait_a_tenth)


async def revoke(client: AsyncClient, token: str) -> None:
    assert (await client.post("/revoke", data={"token": token})).status_code == 200


async def test_a_worker_notices_that_its_database_has_another_past(
    client: AsyncClient, twin: Twin, clock: Clock
) -> None:
    for person in (LANCELOT, GALAHAD):
        await register(client, person)
    here, there, valid = [await log_in(client, LANCELOT) for _ in range(3)]
    galahads = await log_in(client, GALAHAD)
    other_url = twin.copy()
    await answers(client, "/readyz", 200)
    async with started_client(make_settings(other_url), clock) as other:
        await revoke(other, there)
        await register(other, {**LANCELOT, "username": "mordred"})
        mordred = await log_in(other, {**LANCELOT, "username": "mordred"})
        cursor_there = (await other.get("/revocations")).json()["cursor"]
    # Both have the same number of revocations and of users: only the marks tell them apart.
    await revoke(client, here)
    lost = await register(client, {**GALAHAD, "username": "percival"})
    percival = await log_in(client, {**GALAHAD, "username": "percival"})
    for token in (valid, galahads, percival, there):
        assert await token_is_valid(client, token)
    cursor_here = (await client.get("/revocations")).json()["cursor"]
    assert cursor_here.split(".")[:2] == cursor_there.split(".")[:2]
    assert claims_of(mordred)["sub"] == claims_of(percival)["sub"] == str(lost)

    twin.swap()

    for path in (f"/token_status/{there}", f"/token_status/{percival}"):
        assert await answers(client, path, 401), path
    for token in (here, there, percival):
        assert (await client.get("/verify", headers=bearer(token))).status_code == 401
        assert (await client.get("/me", headers=bearer(token))).status_code == 401
    for token in (valid, galahads, mordred):
        assert await token_is_valid(client, token)
    response = await client.get("/revocations", params={"after": cursor_here})
    assert_problem(response, 410, "cursor_unknown")
    again = f"jti:{claims_of(here)['jti']}"
    assert await lists(client, again)
    assert await revoked(client) == [f"jti:{claims_of(there)['jti']}", again]
    page = (await client.get("/revocations", params={"after": cursor_there})).json()
    assert [entry["value"] for entry in page["revocations"]] == [again]


async def test_what_the_database_has_lost_is_revoked_again(
    app: FastAPI, client: AsyncClient, twin: Twin, clock: Clock
) -> None:
    """Otherwise the service would issue tokens that it rejects, and new workers would accept tokens
    that are revoked."""
    for person in (LANCELOT, GALAHAD):
        await register(client, person)
    session = await open_session(client, LANCELOT)
    keys = KeyCalls(client, session["token"])
    narrowed, untouched = (await keys.create())["id"], (await keys.create())["id"]
    announced = await revoked(client)
    old = [await log_in(client, person) for person in (ARTHUR, LANCELOT, GALAHAD)]
    arthur, lancelot, galahad = old
    twin.copy()
    assert await answers(client, "/readyz", 200)
    await keys.revoke(narrowed)
    await revoke(client, lancelot)
    user_id = claims_of(galahad)["sub"]
    disable = f"/toggle-user-permission/{user_id}/0"
    assert (await client.put(disable, headers=bearer(arthur))).is_success
    sid = claims_of(session["token"])["sid"]
    ended = await client.delete(f"/me/sessions/{sid}", headers=bearer(session["token"]))
    assert ended.is_success
    async with app.state.database.session() as database:
        context = context_in(database, app)
        await begin_write(database)
        await app.state.services.keys.revoke(context, kid_of(arthur))
        await app.state.services.revocations.publish(context, f"kid:{kid_of(arthur)}")
        await database.commit()
    known = [f"jti:{claims_of(lancelot)['jti']}", f"sub:{user_id}:{claims_of(galahad)['epoch']}"]
    known += [f"sid:{sid}", f"kid:{kid_of(arthur)}", *await sids_of(client, narrowed)]
    assert await lists(client, *known)

    twin.swap()

    async with started_client(make_settings(twin.first_url), clock) as newcomer:
        assert await lists(newcomer, *known)
        assert sorted(await revoked(newcomer)) == sorted(known + announced)
        for token in (*old, session["token"]):
            assert not await token_is_valid(newcomer, token)
        assert (await refresh(newcomer, session["refresh_token"])).status_code == 400
        for person in (ARTHUR, LANCELOT, GALAHAD):
            fresh = await log_in(newcomer, person)
            assert kid_of(fresh) != kid_of(arthur)
            for each in (newcomer, client):
                assert await token_is_valid(each, fresh)
        keys = await keys_of(newcomer, LANCELOT)
        assert (await keys.get(narrowed))["status"] == "suspended"  # its change was lost
        assert (await keys.get(untouched))["status"] == "active"


@on_sqlite
async def test_while_a_lost_key_is_the_only_one_no_token_is_issued(
    app: FastAPI, client: AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    kid = kid_of(await log_in(client, ARTHUR))
    keys = app.state.key_refresher
    with monkeypatch.context() as meanwhile:
        meanwhile.setattr(
            app.state.revocation_cache, "is_revoked", lambda values: f"kid:{kid}" in values
        )
        async with keys._refreshing:
            assert not await keys._refresh()
        assert_problem(await client.post("/token", json=ARTHUR), 503, "temporarily_unavailable")
    assert (await client.post("/token", json=ARTHUR)).status_code == 200


async def test_a_listener_that_waits_is_told_to_start_over(
    app: FastAPI, client: AsyncClient, twin: Twin, clock: Clock
) -> None:
    await register(client, LANCELOT)
    here, there = [await log_in(client, LANCELOT) for _ in range(2)]
    other_url = twin.copy()
    await answers(client, "/readyz", 200)
    async with started_client(make_settings(other_url), clock) as other:
        await revoke(other, there)
    await revoke(client, here)
    cursor = (await client.get("/revocations")).json()["cursor"]
    query = {"after": cursor, "wait": 20}
    async with asyncio.timeout(15):
        waiting = asyncio.create_task(client.get("/revocations", params=query))
        while not app.state.revocation_feed._listeners:
            await asyncio.sleep(0.01)
        twin.swap()
        assert_problem(await waiting, 410, "cursor_unknown")


@on_sqlite
async def test_a_guard_keeps_its_revocations_and_reads_those_of_the_other_database(
    twin: Twin, clock: Clock
) -> None:
    """Both have the same feed name and as many revocations, and the service keeps running. On
    PostgreSQL, a guard sees the same: the test above shows that the service answers 410."""
    with running_service(twin.first_url) as service, Guard(service.url) as guard:
        user = service.new_user()
        here, there, valid = [service.log_in(user) for _ in range(3)]
        other_url = twin.copy()
        assert comes_true(lambda: answers_at_all(service))
        clock.now = datetime.now(UTC)
        async with started_client(make_settings(other_url), clock) as other:
            await revoke(other, there)
        service.revoke(here)
        assert comes_true(lambda: refusal_of(guard, here) is InvalidTokenError)
        assert refusal_of(guard, there) is None

        twin.swap()

        assert comes_true(lambda: refusal_of(guard, there) is InvalidTokenError)
        assert refusal_of(guard, here) is InvalidTokenError
        assert comes_true(lambda: refusal_of(guard, valid) is None)
        # Guards that start now know it from the service, which has published it again.
        with Guard(service.url) as newcomer:
            assert comes_true(lambda: refusal_of(newcomer, here) is InvalidTokenError)
            assert refusal_of(newcomer, valid) is None


def answers_at_all(service: RunningService) -> bool:
    try:
        service.log_in(ARTHUR)
    except AssertionError:
        return False
    return True


@on_sqlite
async def test_a_cursor_that_the_database_lacks_is_in_the_log_once_an_hour(
    client: AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    await register(client, LANCELOT)
    await revoke(client, await log_in(client, LANCELOT))
    name, position, mark = (await client.get("/revocations")).json()["cursor"].split(".")

    def warnings() -> list[str]:
        found = [record for record in caplog.records if record.name == "hourpass.revocations"]
        return [record.message for record in found if record.levelno == logging.WARNING]

    # A cursor of another feed, or a malformed one, says nothing about this database.
    for cursor in ("nonsense", f"0123456789abcdef.1.{mark}"):
        assert (await client.get("/revocations", params={"after": cursor})).status_code == 410
    assert warnings() == []
    for cursor in (f"{name}.2.{mark}", f"{name}.{position}.{'0' * 16}", f"{name}.3.{mark}"):
        assert (await client.get("/revocations", params={"after": cursor})).status_code == 410
    [warning] = warnings()
    assert "hourpass after-restore" in warning
    assert name not in warning


@pytest.fixture
def after_restore(database_url: str) -> Callable[..., str]:
    def run(*arguments: str, **settings: str) -> str:
        environment = {"DATABASE_URL": database_url, **CHEAP_HASHING, **settings}
        result = CliRunner().invoke(hourpass, ["after-restore", *arguments], env=environment)
        assert result.exit_code == 0, result.output
        return result.output

    return run


async def test_after_a_restore_nothing_that_was_issued_before_is_valid(
    client: AsyncClient, after_restore: Callable[..., str]
) -> None:
    await register(client, LANCELOT)
    session = await open_session(client, LANCELOT)
    tokens = [session["token"], await log_in(client, ARTHUR)]
    code = (await client.post("/invitations", json={}, headers=bearer(tokens[1]))).json()["code"]
    keys = KeyCalls(client, tokens[1])
    api_key = (await keys.create())["id"]
    old_keys = {kid_of(token) for token in tokens}
    cursor = (await client.get("/revocations")).json()["cursor"]

    output = await asyncio.to_thread(after_restore, "--yes")

    assert "Revoked 1 signing key and all tokens" in output
    for token in tokens:
        assert await answers(client, f"/token_status/{token}", 401)
    assert (await refresh(client, session["refresh_token"])).status_code == 400
    invited = {**GALAHAD, "invitation": code}
    assert_problem(await client.post("/register-user", json=invited), 403, "invalid_code")
    assert await register(client, GALAHAD) > IDS_AFTER_BACKUP
    response = await client.get("/revocations", params={"after": cursor})
    assert_problem(response, 410, "cursor_unknown")
    assert [value for value in await revoked(client) if not value.startswith("key:")] == [
        f"kid:{kid}" for kid in old_keys
    ]
    keys = await keys_of(client, ARTHUR)
    assert (await keys.get(api_key))["status"] == "suspended"
    await keys.act(api_key, "resume")
    fresh = await log_in(client, LANCELOT)
    assert kid_of(fresh) not in old_keys
    assert await token_is_valid(client, fresh)
    [entry] = (
        await client.get(
            "/audit",
            params={"action": "service.after_restore"},
            headers=bearer(await log_in(client, ARTHUR)),
        )
    ).json()["entries"]
    assert (entry["actor_id"], entry["succeeded"]) == (None, True)


@on_sqlite
async def test_with_a_shared_secret_old_tokens_are_rejected_and_the_command_says_what_else_to_do(
    database_url: str, clock: Clock, after_restore: Callable[..., str]
) -> None:
    async with started_client(make_settings(database_url, **HS256), clock) as client:
        await register(client, LANCELOT)
        token = await log_in(client, LANCELOT)
    variables = {name.upper(): value for name, value in HS256.items()}
    output = await asyncio.to_thread(after_restore, "--yes", **variables)
    assert "change HS256_SECRET" in output
    async with started_client(make_settings(database_url, **HS256), clock) as client:
        assert not await token_is_valid(client, token)
        again = await log_in(client, LANCELOT)
        assert user_revocation(again) != user_revocation(token)
        assert await token_is_valid(client, again)


@on_sqlite
def test_after_restore_asks_first(database_url: str) -> None:
    environment = {"DATABASE_URL": database_url, **CHEAP_HASHING}
    result = CliRunner().invoke(hourpass, ["after-restore"], input="n\n", env=environment)
    assert result.exit_code == 1
    assert "Aborted" in result.output
