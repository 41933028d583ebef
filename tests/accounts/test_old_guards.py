"""For guards that do not know groups, OLD_GUARDS also revokes the members' tokens one by one."""

import asyncio

import pytest
from fastapi import FastAPI
from httpx import AsyncClient

from app.groups import old_guards
from app.groups.old_guards import OldGuardsJob
from tests.support.admin_client import AdminClient
from tests.support.markers import on_sqlite
from tests.support.users import (
    GALAHAD,
    LANCELOT,
    log_in,
    open_session,
    refreshed,
    register,
    revoked,
    scopes_in,
    token_is_valid,
    user_revocation,
)

PERCIVAL = {**GALAHAD, "username": "percival"}


@pytest.fixture(autouse=True)
def no_job_of_the_app(monkeypatch: pytest.MonkeyPatch) -> None:
    async def wait(_job: OldGuardsJob, stopping: asyncio.Event) -> None:
        await stopping.wait()

    monkeypatch.setattr(OldGuardsJob, "run", wait)
    monkeypatch.setattr(old_guards, "SLICE_SIZE", 2)


async def run_once(app: FastAPI, job: OldGuardsJob) -> bool:
    await app.state.revocation_cache.wait_until_fresh(0)
    while not app.state.revocation_cache.is_fresh():
        await asyncio.sleep(0.01)
    return await job.run_once()


async def test_members_of_a_narrowed_group_are_revoked_in_slices_and_keep_their_sessions(
    app: FastAPI, client: AsyncClient, arthur: AdminClient
) -> None:
    services, database = app.state.services, app.state.database
    job = OldGuardsJob(database, app.state.revocation_cache, services.sessions.revoke_access_tokens)
    await arthur.do("POST", "/groups", {"name": "knights", "scopes": ["a", "b"]})
    sessions = []
    for person in (LANCELOT, GALAHAD, PERCIVAL):
        await arthur.do("PUT", f"/groups/knights/members/{await register(client, person)}")
        sessions.append(await open_session(client, person))
    outsider = await log_in(client, LANCELOT)
    assert not await run_once(app, job)
    await arthur.do("PATCH", "/groups/knights", {"scopes": ["a", "b", "c"]})
    await arthur.do("PATCH", "/groups/knights", {"name": "table"})
    assert not await run_once(app, job)
    expected = {user_revocation(session["token"]) for session in sessions}
    assert user_revocation(outsider) in expected

    await arthur.do("PATCH", "/groups/table", {"scopes": ["a"]})
    before = set(await revoked(client))
    assert len([value for value in before if value.startswith("grp:")]) == 1
    assert not expected & before

    async def crash(*_: object) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await run_once(app, OldGuardsJob(database, app.state.revocation_cache, crash))
    # A login in the meantime loses its token too, so the next logins come afterwards.
    assert await run_once(app, job)
    assert len(expected & set(await revoked(client))) == 2
    assert await run_once(app, job)
    assert expected <= set(await revoked(client))
    assert not await run_once(app, job)
    for session in sessions:
        assert not await token_is_valid(client, session["token"])
        token = await refreshed(client, session)
        assert scopes_in(token) == {"a"}
        assert await token_is_valid(client, token)

    tokens = [await log_in(client, person) for person in (LANCELOT, GALAHAD, PERCIVAL)]
    await arthur.do("DELETE", "/groups/table")
    await arthur.do("DELETE", "/remove-user/2")
    while await run_once(app, job):
        pass
    assert {user_revocation(token) for token in tokens} <= set(await revoked(client))
    for session in sessions[1:]:
        assert scopes_in(await refreshed(client, session)) == set()


@on_sqlite
async def test_a_session_that_was_revoked_stays_revoked(
    client: AsyncClient, arthur: AdminClient
) -> None:
    user_id = await register(client, LANCELOT)
    revoked_session = await open_session(client, LANCELOT)
    await arthur.do("POST", f"/users/{user_id}/revoke-tokens")
    await arthur.do("POST", "/groups", {"name": "knights", "scopes": ["a"]})
    await arthur.do("PUT", f"/groups/knights/members/{user_id}")
    valid_session = await open_session(client, LANCELOT)
    await arthur.do("DELETE", f"/groups/knights/members/{user_id}")
    assert await refreshed(client, valid_session)
    with pytest.raises(AssertionError):
        await refreshed(client, revoked_session)
