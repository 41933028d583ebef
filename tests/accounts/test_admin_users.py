"""Administrators list, search, create, read and change users over HTTP. One always remains."""

import asyncio
from typing import Any

import pytest
from fastapi import FastAPI
from httpx import AsyncClient, Response
from sqlalchemy import select, text, update

from app.accounts.admin.schemas import UserChange
from app.context import RequestContext
from app.database.engine import begin_write
from app.security.one_time_codes import service as codes
from app.security.one_time_codes.service import Purpose
from app.users.errors import LastAdminError
from app.users.models import UNUSABLE_PASSWORD, User
from app.users.service import Users
from tests.support.apps import context_in
from tests.support.markers import on_postgresql, on_sqlite
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
from tests.support.waiting import blocking

MORGAN = {
    "username": "Morgan le Fay",
    "password": "the lady of avalon",
    "email": "morgan@avalon.example",
}

SCOPES = ["deploy", "evaluate", "label", "predict", "train", "upload"]  # sorted


async def page(client: AsyncClient, token: str, **query: Any) -> dict[str, Any]:
    response = await client.get("/users", params=query, headers=bearer(token))
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


async def names(client: AsyncClient, token: str, **query: Any) -> list[str]:
    return [user["username"] for user in (await page(client, token, **query))["users"]]


async def patch(client: AsyncClient, token: str, user_id: int, **change: Any) -> Response:
    return await client.patch(f"/users/{user_id}", json=change, headers=bearer(token))


ADMINISTRATORS_CALLS = [
    ("GET", "/users"),
    ("POST", "/users"),
    ("GET", "/users/1"),
    ("PATCH", "/users/1"),
]


@on_sqlite
async def test_only_an_administrator_may(client: AsyncClient, subtests: pytest.Subtests) -> None:
    await register(client, LANCELOT)
    token = await log_in(client, LANCELOT)
    for method, path in ADMINISTRATORS_CALLS:
        with subtests.test(f"{method} {path}"):
            assert_problem(await client.request(method, path, json={}), 401, "missing_token")
            refused = await client.request(method, path, json={}, headers=bearer(token))
            assert_problem(refused, 403, "insufficient_scope")


@on_sqlite
async def test_a_user_is_shown_without_the_password_hash(
    client: AsyncClient, arthurs_token: str
) -> None:
    lancelot = await register(client, LANCELOT)
    response = await client.get(f"/users/{lancelot}", headers=bearer(arthurs_token))
    record = response.json()
    assert record.pop("created_at")
    assert record == {
        "id": lancelot,
        "username": LANCELOT["username"],
        "email": LANCELOT["email"],
        "email_verified": False,
        "is_enabled": True,
        "is_admin": False,
        "scopes": [],
        "groups": [],
        "kind": "person",
    }
    missing = await client.get("/users/4711", headers=bearer(arthurs_token))
    assert_problem(missing, 404, "user_not_found")


async def test_pages_neither_repeat_nor_skip_users_while_others_are_added_and_removed(
    client: AsyncClient, users: Users, context: RequestContext, arthurs_token: str
) -> None:
    ids = [await register(client, {**GALAHAD, "username": f"galahad{n}"}) for n in range(5)]
    seen: list[int] = []
    query: dict[str, Any] = {"limit": 2}
    while True:
        answer = await page(client, arthurs_token, **query)
        seen += [user["id"] for user in answer["users"]]
        if len(seen) == 2:
            await users.remove(context, seen[-1])
            await users.remove(context, ids[-1])
            await register(client, LANCELOT)
        if answer["next_cursor"] is None:
            break
        query["cursor"] = answer["next_cursor"]
    assert seen == [1, *ids[:-1], ids[-1] + 1]


async def test_users_can_be_searched_and_filtered(client: AsyncClient, arthurs_token: str) -> None:
    for name in ("Ǆordje_1", "50%off", "50_off", "bors"):
        await register(client, {**GALAHAD, "username": name, "email": f"x{len(name)}@a.example"})
    bors = (await page(client, arthurs_token, search="bors"))["users"][0]["id"]
    await patch(client, arthurs_token, bors, is_enabled=False)
    assert await names(client, arthurs_token, search="ǆORDJE") == ["Ǆordje_1"]
    assert await names(client, arthurs_token, search="50%") == ["50%off"]
    assert await names(client, arthurs_token, search="50_") == ["50_off"]
    assert await names(client, arthurs_token, search="ors") == []
    assert await names(client, arthurs_token, search="x4@a.example") == ["bors"]
    assert await names(client, arthurs_token, search="X4@A.example") == ["bors"]
    assert await names(client, arthurs_token, is_admin=True) == [ARTHUR["username"]]
    assert await names(client, arthurs_token, is_enabled=False) == ["bors"]


SPELLINGS = [
    *("Eligijus@bücher.example", "eligijus@BÜCHER.Example", "eligijus@xn--bcher-kva.example"),
    *("ELIGIJUS@XN--BCHER-KVA.EXAMPLE", "eligijus@bu\u0308cher.example"),
    "eligijus@b\u00fccher\u3002example",  # the full stop of Chinese and Japanese keyboards
]


@on_sqlite
async def test_a_user_is_found_by_the_address_as_it_was_typed(
    client: AsyncClient, arthurs_token: str, subtests: pytest.Subtests
) -> None:
    for number, email in enumerate(SPELLINGS[:3]):
        await register(client, {**GALAHAD, "username": f"e{number}", "email": email})
    for search in SPELLINGS:
        with subtests.test(search):
            assert await names(client, arthurs_token, search=search) == ["e0", "e1", "e2"]
    assert await names(client, arthurs_token, search="eligijus@bucher.example") == []


@on_postgresql
async def test_changed_users_stay_in_the_order_of_ids(
    client: AsyncClient, users: Users, context: RequestContext, arthurs_token: str
) -> None:
    """A change moves a row behind the others. On SQLite it does not."""
    ids = [await register(client, {**GALAHAD, "username": f"galahad{n}"}) for n in range(3)]
    await patch(client, arthurs_token, ids[0], is_enabled=False)
    assert [user.id for user in await users.list(context, 1, 2)] == ids[:2]


INVALID_QUERIES: list[dict[str, Any]] = [
    {"limit": 0},
    {"limit": 201},
    {"cursor": "-1"},
    {"search": ""},
    {"search": "a\0"},
]


@on_sqlite
async def test_an_invalid_query_is_rejected(
    client: AsyncClient, arthurs_token: str, subtests: pytest.Subtests
) -> None:
    for query in INVALID_QUERIES:
        with subtests.test(str(query)):
            response = await client.get("/users", params=query, headers=bearer(arthurs_token))
            assert_problem(response, 422, "invalid_request")


@on_sqlite
async def test_an_administrator_creates_a_user(client: AsyncClient, arthurs_token: str) -> None:
    new = {**MORGAN, "scopes": ["train", "predict"], "is_admin": True}
    response = await client.post("/users", json=new, headers=bearer(arthurs_token))
    assert response.status_code == 201
    record = response.json()
    assert response.headers["Location"] == f"/users/{record['id']}"
    assert record["scopes"] == ["predict", "train"]
    assert claims_of(await log_in(client, MORGAN))["scope"] == "admin predict train"
    query = {"subject_id": record["id"], "action": "user.register"}
    audit = await client.get("/audit", params=query, headers=bearer(arthurs_token))
    (entry,) = audit.json()["entries"]
    assert (entry["actor_id"], entry["details"]) == (1, {"to": "admin predict train"})
    again = await client.post("/users", json=new, headers=bearer(arthurs_token))
    assert assert_problem(again, 409, "user_exists")["user_id"] == record["id"]


INVALID_CHANGES: list[dict[str, Any]] = [
    {"scopes": ["admin"]},
    {"scopes": ["offline_access"]},
    {"scopes": ["two words"]},
    {"scopes": ["x" * 129]},
    {"scopes": [f"{number:0100}" for number in range(13)]},
    {"username": "mordred"},
    {"password": "mordred"},
    {"email": "no\r\nBcc: address"},
]


@on_sqlite
async def test_an_invalid_change_is_rejected_as_a_whole(
    client: AsyncClient, arthurs_token: str, subtests: pytest.Subtests
) -> None:
    lancelot = await register(client, LANCELOT)
    for change in INVALID_CHANGES:
        with subtests.test(str(change)):
            refused = await patch(client, arthurs_token, lancelot, **{"is_admin": True, **change})
            assert_problem(refused, 422, "invalid_request")
            record = (await client.get(f"/users/{lancelot}", headers=bearer(arthurs_token))).json()
            assert (record["is_admin"], record["is_enabled"]) == (False, True)


CHANGES: list[tuple[dict[str, Any], bool, list[str]]] = [
    ({}, False, []),
    ({"is_enabled": True, "is_admin": False, "scopes": []}, False, []),
    ({"email": "lake@avalon.example"}, False, ["user.change_email"]),
    ({"email": ""}, False, ["user.change_email"]),
    ({"is_enabled": False}, True, ["user.disable"]),
    ({"scopes": ["predict"]}, True, ["user.grant"]),
    ({"is_admin": True, "email": ""}, True, ["user.change_email", "user.grant"]),
]


@on_sqlite
async def test_tokens_are_revoked_exactly_when_their_claims_have_changed(
    client: AsyncClient, arthurs_token: str, subtests: pytest.Subtests
) -> None:
    for number, (change, is_revoked, actions) in enumerate(CHANGES):
        with subtests.test(str(change)):
            person = {**LANCELOT, "username": f"lancelot{number}"}
            user_id = await register(client, person)
            token = await log_in(client, person)
            answer = await patch(client, arthurs_token, user_id, **change)
            assert answer.status_code == 200
            stored = {name: None if value == "" else value for name, value in change.items()}
            assert {**answer.json(), **stored} == answer.json()
            assert await token_is_valid(client, token) is not is_revoked
            query = {"subject_id": user_id, "actor_id": 1}
            audit = await client.get("/audit", params=query, headers=bearer(arthurs_token))
            assert sorted(entry["action"] for entry in audit.json()["entries"]) == actions


@on_sqlite
async def test_a_change_without_effect_revokes_nothing_and_is_not_in_the_audit_log(
    client: AsyncClient, arthurs_token: str
) -> None:
    lancelot = await register(client, LANCELOT)
    await patch(client, arthurs_token, lancelot, is_enabled=False, scopes=SCOPES)
    await patch(client, arthurs_token, lancelot, email_verified=True)
    before = await revoked(client)
    changes: tuple[dict[str, Any], ...] = (
        {"email_verified": True},  # as it is
        {"scopes": SCOPES[::-1]},
        {"email": ""},  # the tokens of the disabled user have ended
        {"email_verified": False},
        {"is_enabled": True},
    )
    for change in changes:
        answer = await patch(client, arthurs_token, lancelot, **change)
        assert answer.status_code == 200
    assert await revoked(client) == before
    query: dict[str, Any] = {"subject_id": lancelot, "actor_id": 1}
    audit = await client.get("/audit", params=query, headers=bearer(arthurs_token))
    actions = [entry["action"] for entry in audit.json()["entries"]]
    assert actions == [
        *("user.enable", "user.change_email", "user.verify_email"),
        *("user.disable", "user.grant"),
    ]


@on_sqlite
async def test_scopes_that_a_command_granted_can_be_removed_over_http(
    client: AsyncClient, users: Users, context: RequestContext, arthurs_token: str
) -> None:
    lancelot = await register(client, LANCELOT)
    await users.set_scopes(context, lancelot, {"admin", *SCOPES})
    record = (await client.get(f"/users/{lancelot}", headers=bearer(arthurs_token))).json()
    assert (record["is_admin"], record["scopes"]) == (True, SCOPES)
    query: dict[str, Any] = {"subject_id": lancelot, "action": "user.grant"}
    audit = await client.get("/audit", params=query, headers=bearer(arthurs_token))
    (entry,) = audit.json()["entries"]
    assert entry["details"] == {"to": " ".join(["admin", *SCOPES])}
    await patch(client, arthurs_token, lancelot, is_admin=False)
    assert claims_of(await log_in(client, LANCELOT))["scope"] == " ".join(SCOPES)


@on_sqlite
async def test_null_changes_nothing_and_an_empty_list_removes_all_scopes(
    client: AsyncClient, arthurs_token: str, subtests: pytest.Subtests
) -> None:
    new = {**MORGAN, "scopes": ["train"], "is_admin": True}
    created = await client.post("/users", json=new, headers=bearer(arthurs_token))
    morgan = created.json()["id"]
    for change in ({"email_verified": True}, {"is_enabled": False}):
        before = (await patch(client, arthurs_token, morgan, **change)).json()
    for member in UserChange.model_fields:
        with subtests.test(member):
            after = await patch(client, arthurs_token, morgan, **{member: None})
            assert after.status_code == 200, after.text
            assert after.json() == before
    assert (await patch(client, arthurs_token, morgan, scopes=[])).json()["scopes"] == []


@on_sqlite
async def test_the_last_administrator_cannot_be_disabled_demoted_or_removed(
    client: AsyncClient, arthurs_token: str
) -> None:
    arthur = int(claims_of(arthurs_token)["sub"])
    headers = bearer(arthurs_token)
    for refused in (
        await patch(client, arthurs_token, arthur, is_enabled=False),
        await patch(client, arthurs_token, arthur, is_admin=False, scopes=["predict"]),
        await client.put(f"/toggle-user-permission/{arthur}/0", headers=headers),
        await client.delete(f"/remove-user/{arthur}", headers=headers),
    ):
        assert_problem(refused, 409, "last_admin")
    assert await token_is_valid(client, arthurs_token)
    created = await client.post("/users", json={**MORGAN, "is_admin": True}, headers=headers)
    morgan = created.json()
    await patch(client, arthurs_token, morgan["id"], is_enabled=False)
    refused = await patch(client, arthurs_token, arthur, is_admin=False)  # a disabled one is none
    assert_problem(refused, 409, "last_admin")
    await patch(client, arthurs_token, morgan["id"], is_enabled=True)
    assert (await patch(client, arthurs_token, arthur, is_admin=False)).status_code == 200


@on_sqlite
@pytest.mark.parametrize("column", ["is_admin", "is_enabled"])
async def test_without_any_administrator_users_can_be_removed(
    app: FastAPI, users: Users, context: RequestContext, column: str
) -> None:
    """As after a change in the database itself."""
    async with app.state.database.session() as session:
        await begin_write(session)
        await session.execute(update(User).values({column: False}))
        await session.commit()
    await users.remove(context, 1)


async def lock(users: Users, context: RequestContext, how: str, user_id: int) -> None:
    if how == "for its tokens":
        await users.lock(context, user_id)
    else:
        await users.invalidate_password(context, user_id)


@on_postgresql
async def test_a_code_can_be_issued_for_a_user_whose_row_is_locked(
    app: FastAPI,
    users: Users,
    context: RequestContext,
    client: AsyncClient,
    subtests: pytest.Subtests,
) -> None:
    """Otherwise a mail to several users and a change of several users could wait for each other."""
    lancelot = await register(client, LANCELOT)
    for how in ("for its tokens", "with the administrators"):
        with subtests.test(how):
            await lock(users, context, how, lancelot)
            async with app.state.database.session() as session:
                await begin_write(session)
                # To fail rather than hang.
                await session.execute(text("SET LOCAL lock_timeout = '5s'"))
                await codes.issue(context_in(session, app), Purpose.RESET, user_id=lancelot)
                await session.commit()
            await context.session.rollback()


@on_postgresql
async def test_administrators_are_locked_in_the_order_of_their_ids(
    app: FastAPI, users: Users, context: RequestContext, client: AsyncClient
) -> None:
    galahad = await register(client, GALAHAD)
    await users.set_scopes(context, galahad, {"admin"})
    await users.change(context, 1, email="avalon@camelot.example")  # moves the row behind the other
    async with app.state.database.session() as holding:
        await begin_write(holding)
        await users.lock(context_in(holding, app), galahad)
        async with blocking(app.state.database):
            removal = asyncio.create_task(users.remove(context, galahad))
        async with app.state.database.session() as session:
            first = select(User.id).where(User.id == 1).with_for_update(skip_locked=True)
            assert await session.scalar(first) is None
        await holding.rollback()
    await removal


async def test_one_of_two_administrators_who_remove_each_other_remains(
    app: FastAPI,
    users: Users,
    context: RequestContext,
    client: AsyncClient,
    arthurs_token: str,
) -> None:
    arthur = int(claims_of(arthurs_token)["sub"])
    for number in range(4):
        other = await register(client, {**GALAHAD, "username": f"galahad{number}"})
        await users.set_scopes(context, other, {"admin"})

        async def remove_admin(user_id: int, how: int = number) -> bool:
            async with app.state.database.session() as session:
                context = context_in(session, app)
                try:
                    if how == 0:
                        await users.remove(context, user_id)
                    elif how == 1:
                        await users.set_enabled(context, user_id, enabled=False)
                    elif how == 2:
                        await users.invalidate_password(context, user_id)
                        await session.commit()
                    else:
                        await users.set_scopes(context, user_id, set())
                except LastAdminError:
                    return False
                return True

        removed = await asyncio.gather(remove_admin(arthur), remove_admin(other))
        assert sorted(removed) == [False, True]
        arthur = other if removed[0] else arthur
        async with app.state.database.session() as session:
            context = context_in(session, app)
            admins = await users.list(context, 0, 50, is_enabled=True, is_admin=True)
        assert [user.id for user in admins if user.password_hash != UNUSABLE_PASSWORD] == [arthur]
