"""Owners see only their own keys, and administrators those of all users. Programs with a key or a
limited token see none. What happens to an owner also happens to the owner's keys.
"""

from typing import Any

import pytest
from fastapi import FastAPI
from httpx import AsyncClient
from sqlalchemy import func, select

from app.credentials.api_keys.models import ApiKey
from app.tokens.jwt import AccessTokenRequest
from tests.support.key_calls import KeyCalls, answered, keys_of
from tests.support.markers import on_sqlite
from tests.support.users import (
    ARTHUR,
    GALAHAD,
    LANCELOT,
    assert_problem,
    bearer,
    claims_of,
    log_in,
    register,
    revoked,
    token_is_valid,
)

CALLS: list[tuple[str, str, dict[str, Any]]] = [
    ("GET", "", {}),
    ("POST", "", {"name": "x"}),
    ("GET", "/{key}", {}),
    ("PATCH", "/{key}", {"name": "x"}),
    ("POST", "/{key}/rotate", {"overlap_seconds": 1}),
    ("POST", "/{key}/suspend", {}),
    ("POST", "/{key}/resume", {}),
    ("DELETE", "/{key}", {}),
]


async def count_keys(app: FastAPI) -> int:
    async with app.state.database.session() as session:
        return await session.scalar(select(func.count()).select_from(ApiKey)) or 0


def token_of(app: FastAPI, token: str, **changes: object) -> str:
    """Another token of the user, signed by the service."""
    claims = claims_of(token)
    request = AccessTokenRequest(
        subject=claims["sub"],
        username=claims["preferred_username"],
        token_version=claims["epoch"],
        authenticated_at=app.state.clock(),
        **{"scope": "", **changes},  # type: ignore[arg-type] # of any member
    )
    encoded: str = app.state.tokens.encode(request, app.state.clock())
    return encoded


@on_sqlite
async def test_others_cannot_reach_a_key(
    app: FastAPI, client: AsyncClient, subtests: pytest.Subtests
) -> None:
    lancelot, _ = await register(client, LANCELOT), await register(client, GALAHAD)
    keys, galahads = await keys_of(client, LANCELOT), await keys_of(client, GALAHAD)
    key_id = (await keys.create())["id"]
    before = await keys.get(key_id)
    arthurs_token = await log_in(client, ARTHUR)
    limited = KeyCalls(client, token_of(app, await log_in(client, LANCELOT), is_limited=True))
    anonymous = AsyncClient(transport=client._transport, base_url=client.base_url)
    path = f"/users/{lancelot}/api-keys"
    by_galahad = KeyCalls(client, await log_in(client, GALAHAD), path)
    of_unknown_user = KeyCalls(client, arthurs_token, "/users/77/api-keys")
    of_another = KeyCalls(client, arthurs_token, "/users/3/api-keys")
    of_a_key = {"client_id": key_id, "is_limited": True, "scope": "admin"}
    by_key = KeyCalls(client, token_of(app, arthurs_token, **of_a_key), path)
    for method, below, body in CALLS:
        below = below.format(key=key_id)  # noqa: PLW2901 - filled in
        is_of_a_key = key_id in below
        with subtests.test(f"{method} {below}"):
            refused = await anonymous.request(method, f"/me/api-keys{below}", json=body)
            assert_problem(refused, 401, "missing_token")
            assert_problem(await limited.send(method, below, **body), 403, "insufficient_scope")
            assert_problem(await by_galahad.send(method, below, **body), 403, "insufficient_scope")
            if is_of_a_key:
                for others in (galahads, of_another):
                    unknown = await others.send(method, below, **body)
                    assert_problem(unknown, 404, "api_key_not_found")
                    no_key = below.replace(key_id, "0" * 8)
                    assert (await others.send(method, no_key, **body)).json() == unknown.json()
            assert_problem(await of_unknown_user.send(method, below, **body), 404, "user_not_found")
            answer = await by_key.send(method, below, **body)
            if method == "GET":
                assert answer.status_code == 200
            else:
                assert_problem(answer, 403, "insufficient_scope")
    await anonymous.aclose()
    assert await keys.get(key_id) == before
    assert await count_keys(app) == 1


@on_sqlite
async def test_administrators_do_the_same_for_any_user(
    client: AsyncClient, arthurs_token: str
) -> None:
    lancelot = await register(client, LANCELOT)
    administered = KeyCalls(client, arthurs_token, f"/users/{lancelot}/api-keys")
    refused = await administered.send("POST", name="x", scopes=["admin"])
    assert_problem(refused, 422, "invalid_request")  # Arthur has it, Lancelot does not
    made = await administered.create("made for you")
    keys = await keys_of(client, LANCELOT)
    assert await keys.names() == await administered.names() == ["made for you"]
    assert (await administered.change(made["id"], name="renamed"))["name"] == "renamed"
    await administered.act(made["id"], "suspend")
    await administered.act(made["id"], "resume")
    rotated = await administered.rotate(made["id"], overlap_seconds=60)
    assert (await administered.revoke(rotated["id"]))["status"] == "revoked"
    assert await administered.get(made["id"]) == await keys.get(made["id"])
    entries = answered(await client.get("/me/audit?limit=7", headers=keys.headers))["entries"]
    acts = ["revoke", "rotate", "resume", "suspend", "update", "create"]
    shown = [entry for entry in entries if entry["action"].startswith("api_key.")]
    assert [entry["action"] for entry in shown] == [f"api_key.{act}" for act in acts]
    assert {entry["actor_id"] for entry in shown} == {1}
    assert {entry["address"] for entry in shown} == {None}
    assert shown[4]["details"] == {"key": made["id"], "name": "renamed", "changed": "name"}


async def test_keys_follow_their_owner(
    app: FastAPI, client: AsyncClient, subtests: pytest.Subtests
) -> None:
    headers = bearer(await log_in(client, ARTHUR))
    lancelot, _ = await register(client, LANCELOT), await register(client, GALAHAD)
    galahads = await keys_of(client, GALAHAD)
    await galahads.create("galahad's")
    keys = await keys_of(client, LANCELOT)
    made = await keys.create()
    with subtests.test("disabled and enabled again: kept"):
        for permission in (0, 1):
            await client.put(f"/toggle-user-permission/{lancelot}/{permission}", headers=headers)
        keys = await keys_of(client, LANCELOT)
        assert (await keys.get(made["id"]))["status"] == "active"
    with subtests.test("another password: kept"):
        body = {"password": LANCELOT["password"], "new_password": "a password that is new"}
        await client.post("/me/password", json=body, headers=keys.headers)
        keys = await keys_of(client, LANCELOT | {"password": body["new_password"]})
        assert await keys.names() == ["batch"]
    with subtests.test("logged out everywhere: kept or revoked"):
        choices: list[tuple[dict[str, bool] | None, list[str]]] = [
            (None, ["batch"]),
            ({"api_keys": False}, ["batch"]),
            ({"api_keys": True}, []),
        ]
        for choice, names in choices:
            path = "/me/logout-everywhere"
            response = await client.post(path, headers=keys.headers, json=choice)
            assert answered(response)["user_id"] == lancelot
            assert not await token_is_valid(client, keys.headers["Authorization"][7:])
            keys = await keys_of(client, LANCELOT | {"password": "a password that is new"})
            assert await keys.names() == names
        # By which a worker knows that the key was revoked if a failover loses this change.
        assert any(value.startswith(f"sid:{made['id']}.") for value in await revoked(client))
        refused = await client.post(path, headers=keys.headers, json={"api_key": True})
        assert_problem(refused, 422, "invalid_request")
        (entry,) = answered(await client.get("/audit?action=api_key.revoke", headers=headers))[
            "entries"
        ]
        assert entry["details"] == {
            "key": made["id"],
            "name": "batch",
            "reason": "logged out everywhere",
        }
    with subtests.test("an administrator forces a reset: revoked"):
        suspended = (await keys.create("suspended"))["id"]
        await keys.act(suspended, "suspend")
        await keys.create("active")
        await client.post(f"/users/{lancelot}/password-reset", headers=headers)
        administered = KeyCalls(client, headers["Authorization"][7:], f"/users/{lancelot}/api-keys")
        assert await administered.names() == []
        assert (await administered.get(suspended))["status"] == "revoked"
    with subtests.test("deleted: deleted"):
        assert await count_keys(app) == 4
        await client.delete(f"/remove-user/{lancelot}", headers=headers)
        assert await count_keys(app) == 1
    assert await galahads.names() == ["galahad's"]


async def test_a_key_is_not_made_with_a_token_that_was_revoked_meanwhile(
    app: FastAPI, client: AsyncClient
) -> None:
    """The token was valid when the request came, and its user has logged out everywhere since."""
    await register(client, LANCELOT)
    keys = await keys_of(client, LANCELOT)
    made = await keys.create()
    require_recent = app.state.services.second_factors.require_recent

    async def log_out_first(*arguments: object) -> None:
        await client.post("/me/logout-everywhere", headers=keys.headers)
        await require_recent(*arguments)

    app.state.services.second_factors.require_recent = log_out_first
    assert_problem(await keys.send("POST", name="x"), 401, "invalid_token")
    keys = await keys_of(client, LANCELOT)
    rotation = await keys.send("POST", f"/{made['id']}/rotate")
    assert_problem(rotation, 401, "invalid_token")
    assert await count_keys(app) == 1
