"""Service accounts are users without a password, with names that other users cannot have."""

import json
from typing import Any

import pytest
from httpx import AsyncClient, Response

from tests.support.commands import Command, assert_refused, hourpass
from tests.support.markers import on_sqlite
from tests.support.users import (
    ARTHUR,
    GALAHAD,
    LANCELOT,
    assert_problem,
    bearer,
    log_in,
    register,
)

__all__ = ["hourpass"]

SERVICE = {"username": "svc-nightly", "scopes": ["predict:fraud-*"]}


async def create(client: AsyncClient, token: str, **members: Any) -> Response:
    return await client.post(
        "/service-accounts", json={**SERVICE, **members}, headers=bearer(token)
    )


async def test_an_administrator_creates_lists_changes_and_deletes_one(
    client: AsyncClient, arthurs_token: str
) -> None:
    response = await create(client, arthurs_token)
    assert response.status_code == 201, response.text
    account = response.json()
    assert response.headers["location"] == f"/users/{account['id']}"
    assert (account["username"], account["kind"], account["scopes"], account["is_enabled"]) == (
        "svc-nightly",
        "service",
        ["predict:fraud-*"],
        True,
    )
    admin = bearer(arthurs_token)
    for kind, names in {"service": ["svc-nightly"], "person": ["arthur"]}.items():
        listed = (await client.get("/users", params={"kind": kind}, headers=admin)).json()["users"]
        assert [(user["username"], user["kind"]) for user in listed] == [(names[0], kind)]
    path = f"/users/{account['id']}"
    changed = await client.patch(
        path, json={"scopes": ["train"], "is_enabled": False}, headers=admin
    )
    assert (changed.json()["scopes"], changed.json()["is_enabled"]) == (["train"], False)
    removed = await client.delete(f"/remove-user/{account['id']}", headers=admin)
    assert removed.status_code == 200
    assert_problem(await client.get(path, headers=admin), 404, "user_not_found")
    assert (await client.get("/me", headers=admin)).json()["kind"] == "person"


@on_sqlite
async def test_a_key_is_created_by_either_path(client: AsyncClient, arthurs_token: str) -> None:
    account = (await create(client, arthurs_token)).json()
    person, admin = await register(client, LANCELOT), bearer(arthurs_token)
    for group in ("service-accounts", "users"):
        path = f"/{group}/{account['id']}/api-keys"
        made = await client.post(path, json={"name": group}, headers=admin)
        assert made.status_code == 201, made.text
        profile = await client.get("/me", headers=bearer(made.json()["key"]))
        assert profile.json()["id"] == account["id"]
    listed = await client.get(f"/users/{account['id']}/api-keys", headers=admin)
    assert [key["name"] for key in listed.json()["api_keys"]] == ["users", "service-accounts"]
    for user_id in (person, 4711):
        path = f"/service-accounts/{user_id}/api-keys"
        answer = await client.post(path, json={"name": "batch"}, headers=admin)
        assert_problem(answer, 404, "user_not_found")
    by_key = bearer(made.json()["key"])
    by_person = bearer(await log_in(client, LANCELOT))
    for headers in (by_key, by_person):
        path = f"/service-accounts/{account['id']}/api-keys"
        answer = await client.post(path, json={"name": "batch"}, headers=headers)
        assert_problem(answer, 403, "insufficient_scope")


@on_sqlite
async def test_it_stays_when_the_administrator_who_created_it_is_deleted(
    client: AsyncClient, arthurs_token: str
) -> None:
    admin = bearer(arthurs_token)
    lancelot = await register(client, LANCELOT)
    await client.patch(f"/users/{lancelot}", json={"is_admin": True}, headers=admin)
    account = (await create(client, await log_in(client, LANCELOT))).json()
    await client.delete(f"/remove-user/{lancelot}", headers=admin)
    assert (await client.get(f"/users/{account['id']}", headers=admin)).json()["is_enabled"]


@on_sqlite
async def test_only_an_administrator_may(client: AsyncClient) -> None:
    await register(client, LANCELOT)
    token = await log_in(client, LANCELOT)
    assert_problem(await create(client, token), 403, "insufficient_scope")
    unauthenticated = await client.post("/service-accounts", json=SERVICE)
    assert_problem(unauthenticated, 401, "missing_token")


@on_sqlite
async def test_invalid_members_are_named(
    client: AsyncClient, arthurs_token: str, subtests: pytest.Subtests
) -> None:
    for members, field in (
        ({"username": "nightly"}, "username"),
        ({"username": " svc-nightly"}, "username"),
        ({"username": "svc-" + "a" * 61}, "username"),
        ({"scopes": ["admin"]}, "scopes"),
        ({"password": "correct horse battery staple"}, "password"),
        ({"email": "svc@camelot.example"}, "email"),
    ):
        with subtests.test(field, members=members):
            refused = await create(client, arthurs_token, **members)
            problem = assert_problem(refused, 422, "invalid_request")
            assert [each["field"] for each in problem["fields"]] == [field]
    assert (await create(client, arthurs_token)).status_code == 201
    twice = await create(client, arthurs_token, username="SVC-Nightly")
    assert_problem(twice, 409, "user_exists")


@on_sqlite
async def test_nobody_else_can_have_such_a_name(
    client: AsyncClient, arthurs_token: str, subtests: pytest.Subtests
) -> None:
    for name in ("svc-lancelot", "SVC-lancelot", "\uff53\uff56\uff43-lancelot"):
        for path in ("/register-user", "/users"):
            with subtests.test(path, name=name):
                person = {**LANCELOT, "username": name}
                refused = await client.post(path, json=person, headers=bearer(arthurs_token))
                problem = assert_problem(refused, 422, "invalid_request")
                assert [each["field"] for each in problem["fields"]] == ["username"]
    assert await register(client, {**LANCELOT, "username": "svclancelot"})


@on_sqlite
async def test_it_gets_no_password_and_no_address(
    client: AsyncClient, arthurs_token: str, hourpass: Command
) -> None:
    admin = bearer(arthurs_token)
    account = (await create(client, arthurs_token)).json()
    path = f"/users/{account['id']}"
    email = await client.patch(path, json={"email": GALAHAD["email"]}, headers=admin)
    assert_problem(email, 409, "service_account")
    reset = await client.post(f"{path}/password-reset", headers=admin)
    assert_problem(reset, 409, "service_account")
    result = await hourpass("set-password", "svc-nightly", stdin="achieved the grail\n")
    assert_refused(result, "A service account has no password")
    for password in ("", "!", ARTHUR["password"]):
        login = {"username": "svc-nightly", "password": password}
        assert (await client.post("/token", json=login)).status_code in (401, 422)
        form = await client.post("/token", data=login)
        assert (form.status_code, "token" in form.json()) == (400, False)
    shown = (await client.get(path, headers=admin)).json()
    assert (shown["email"], shown["is_enabled"]) == (None, True)


@on_sqlite
async def test_the_command_creates_and_lists_them(
    client: AsyncClient, arthurs_token: str, hourpass: Command
) -> None:
    created = await hourpass(
        "service-accounts", "create", "svc-scoring", "--scope", "predict:*", "--json"
    )
    assert created.exit_code == 0, created.output
    account = json.loads(created.stdout)
    assert (account["username"], account["scopes"]) == ("svc-scoring", ["predict:*"])
    listed = await hourpass("service-accounts", "list")
    (row,) = listed.stdout.splitlines()[1:]
    assert row.split() == [str(account["id"]), "svc-scoring", "enabled", "predict:*"]
    as_json = await hourpass("service-accounts", "list", "--json")
    assert [json.loads(line) for line in as_json.stdout.splitlines()] == [account]
    shown = await client.get(f"/users/{account['id']}", headers=bearer(arthurs_token))
    assert shown.json()["kind"] == "service"
    refused = await hourpass("service-accounts", "create", "scoring")
    assert_refused(refused, "USERNAME: Must begin with svc-")
