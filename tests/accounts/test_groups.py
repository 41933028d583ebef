"""Members have the scopes of their groups. Losing scopes revokes access tokens, never a session."""

import asyncio
from types import SimpleNamespace
from urllib.parse import quote

import pytest
from fastapi import FastAPI
from httpx import AsyncClient

from app.context import RequestContext
from app.groups import errors, service, token_size, user_scopes
from app.groups.service import Groups
from app.settings import Settings
from tests.support.admin_client import AdminClient
from tests.support.apps import context_in
from tests.support.markers import on_postgresql, on_sqlite
from tests.support.settings import ARTHUR_ADMINISTERS, make_settings
from tests.support.users import (
    GALAHAD,
    LANCELOT,
    assert_problem,
    bearer,
    claims_of,
    log_in,
    open_session,
    refreshed,
    register,
    revoked,
    scopes_in,
    token_is_valid,
    user_revocation,
)
from tests.support.waiting import blocking


@pytest.fixture
def settings(database_url: str) -> Settings:
    return make_settings(database_url, **ARTHUR_ADMINISTERS, old_guards=False)


@pytest.fixture
def groups(app: FastAPI) -> Groups:
    groups: Groups = app.state.services.groups
    return groups


async def test_members_have_the_scopes_of_a_group_until_they_leave(
    client: AsyncClient, arthur: AdminClient
) -> None:
    for person in (LANCELOT, GALAHAD):
        await register(client, person)
    await arthur.do("PATCH", "/users/2", {"scopes": ["train"]})
    old = await log_in(client, LANCELOT)
    group = await arthur.do("POST", "/groups", {"name": "Knights", "scopes": ["predict:fraud-*"]})
    members = "/groups/knights/members"
    for _ in range(2):  # PUT is safe to repeat
        await arthur.do("PUT", f"{members}/2")
    await arthur.do("PUT", f"{members}/3")

    assert await token_is_valid(client, old)
    assert "grp" not in claims_of(old)
    session = await open_session(client, LANCELOT)
    token = session["token"]
    assert scopes_in(token) == {"train", "predict:fraud-*"}
    (named,) = claims_of(token)["grp"]
    assert named.startswith(f"{group['id']}.")
    assert scopes_in(await log_in(client, GALAHAD)) == {"predict:fraud-*"}

    profile = (await client.get("/me", headers=bearer(token))).json()
    assert profile["groups"] == ["Knights"]
    record = await arthur.do("GET", "/users/2")
    assert (record["scopes"], record["groups"]) == (["train"], ["Knights"])
    users = (await arthur.do("GET", "/users"))["users"]
    assert [user["groups"] for user in users] == [[], ["Knights"], ["Knights"]]
    assert await arthur.do("GET", "/users/2/groups") == {"groups": [group]}
    first = await arthur.do("GET", f"{members}?limit=1")
    assert first["members"] == [{"id": 2, "username": "lancelot", "kind": "person"}]
    second = await arthur.do("GET", f"{members}?limit=1&cursor={first['next_cursor']}")
    assert [member["id"] for member in second["members"]] == [3]
    assert second["next_cursor"] is None

    galahads = await log_in(client, GALAHAD)
    before = set(await revoked(client))
    await arthur.do("DELETE", f"{members}/2")
    assert set(await revoked(client)) - before == {user_revocation(token)}
    assert not await token_is_valid(client, token)
    assert not await token_is_valid(client, old)
    assert await token_is_valid(client, galahads)
    after = await refreshed(client, session)
    assert scopes_in(after) == {"train"}
    assert "grp" not in claims_of(after)
    assert await token_is_valid(client, after)
    assert_problem(await arthur.call("DELETE", f"{members}/2"), 404, "member_not_found")

    await arthur.do("DELETE", "/remove-user/3")
    assert (await arthur.do("GET", members))["members"] == []


async def test_only_a_loss_of_scopes_revokes_tokens_with_one_entry_for_all(
    client: AsyncClient, arthur: AdminClient
) -> None:
    path = "/groups/knights"
    await arthur.do("POST", "/groups", {"name": "knights", "scopes": ["predict:a", "predict:b"]})
    sessions = []
    for person in (LANCELOT, GALAHAD):
        await arthur.do("PUT", f"{path}/members/{await register(client, person)}")
        sessions.append(await open_session(client, person))
    tokens = [session["token"] for session in sessions]
    (named,) = claims_of(tokens[0])["grp"]
    group_id, version = map(int, named.split("."))
    before = set(await revoked(client))

    for change in ({"scopes": ["predict:*"]}, {"name": "round-table"}, {"name": "Knights"}, {}):
        await arthur.do("PATCH", path, change)
        path = f"/groups/{change.get('name', path.rpartition('/')[2])}"
        assert all([await token_is_valid(client, token) for token in tokens]), change
    # They were not asked for at the login, so no session ever gets them.
    assert scopes_in(await refreshed(client, sessions[0])) == {"predict:a", "predict:b"}

    await arthur.do("PATCH", path, {"scopes": ["predict:a", "train"]})
    assert set(await revoked(client)) - before == {f"grp:{group_id}.{version}"}
    assert not any([await token_is_valid(client, token) for token in tokens])
    tokens = [await refreshed(client, session) for session in sessions]
    for token in tokens:
        assert await token_is_valid(client, token)
        assert (scopes_in(token), claims_of(token)["grp"]) == (
            {"predict:a"},
            [f"{group_id}.{version + 1}"],
        )

    await arthur.do("DELETE", path)
    assert set(await revoked(client)) - before == {f"grp:{group_id}.{version + n}" for n in (0, 1)}
    assert not any([await token_is_valid(client, token) for token in tokens])
    assert scopes_in(await refreshed(client, sessions[0])) == set()
    again = await arthur.do("POST", "/groups", {"name": "KNIGHTS", "scopes": ["train"]})
    assert again["id"] > group_id
    assert (await arthur.do("GET", "/users/2/groups"))["groups"] == []
    assert_problem(await arthur.call("GET", path + "x"), 404, "group_not_found")


@on_sqlite
async def test_names_and_scopes_are_checked(arthur: AdminClient) -> None:
    for name in ("ärzte-2.1_b", "Стол", "卓"):
        created = await arthur.call("POST", "/groups", {"name": name})
        assert created.status_code == 201, created.text
        assert created.headers["Location"] == f"/groups/{quote(name)}"
        path = f"/groups/{quote(name.upper())}"
        assert (await arthur.do("GET", path))["name"] == name
        taken = await arthur.call("POST", "/groups", {"name": name.upper()})
        assert_problem(taken, 409, "group_exists")
    bad = ["", "a b", "a/b", "..", ".a", "-a", "_a", "a\0", "a\u3164", "a:b", "a%", 65 * "a"]
    bad += [33 * "\u0149"]  # compared as 66 characters
    for refused in (*({"name": name} for name in bad), {"name": "a", "scopes": ["admin"]}):
        answer = await arthur.call("POST", "/groups", refused)
        assert_problem(answer, 422, "invalid_request")
    for scopes in (["offline_access"], ["a b"], ["x" * 501]):
        answer = await arthur.call("PATCH", path, {"scopes": scopes})
        assert_problem(answer, 422, "invalid_request")
    for unknown in ("a%00", "a%2Fb", "%2E%2E", "a" * 65):
        answer = await arthur.call("GET", f"/groups/{unknown}")
        assert answer.status_code == 404, unknown
    taken = await arthur.call("PATCH", path, {"name": "СТОЛ"})
    assert_problem(taken, 409, "group_exists")
    for method, of_nobody in (
        ("PUT", f"{path}/members/7"),
        ("DELETE", f"{path}/members/7"),
        ("GET", "/users/7/groups"),
    ):
        assert_problem(await arthur.call(method, of_nobody), 404, "user_not_found")
    listed = (await arthur.do("GET", "/groups?limit=2"))["groups"]
    assert [group["name"] for group in listed] == ["ärzte-2.1_b", "Стол"]


async def test_one_of_several_simultaneous_groups_with_one_name_is_created(
    arthur: AdminClient,
) -> None:
    answers = await asyncio.gather(
        *(arthur.call("POST", "/groups", {"name": name}) for name in ("table", "TABLE", "Table"))
    )
    assert sorted(answer.status_code for answer in answers) == [201, 409, 409]


async def test_a_group_that_is_being_created_counts(
    app: FastAPI, groups: Groups, arthur: AdminClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "MAX_GROUPS_IN_TOTAL", 1)
    database = app.state.database
    async with database.transaction() as session:
        await groups.create(context_in(session, app), "knights")
        async with blocking(database):
            second = asyncio.create_task(arthur.call("POST", "/groups", {"name": "squires"}))
    assert_problem(await second, 409, "group_limit_reached")


@on_sqlite
async def test_the_numbers_of_groups_and_scopes_are_limited(
    client: AsyncClient, arthur: AdminClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    lancelot, galahad = await register(client, LANCELOT), await register(client, GALAHAD)
    for number in range(21):
        await arthur.do("POST", "/groups", {"name": f"g{number}", "scopes": [f"s{number}"]})
    for number in range(20):
        await arthur.do("PUT", f"/groups/g{number}/members/{lancelot}")
    refused = await arthur.call("PUT", f"/groups/g20/members/{lancelot}")
    assert "20" in assert_problem(refused, 409, "too_many_groups")["message"]
    token = await log_in(client, LANCELOT)
    assert len(claims_of(token)["grp"]) == 20
    assert await token_is_valid(client, token)

    monkeypatch.setattr(token_size, "MAX_SCOPES_LENGTH", 100)
    await arthur.do("PUT", f"/groups/g20/members/{galahad}")
    long = {"scopes": ["x" * 45, "y" * 45]}
    await arthur.do("PATCH", "/groups/g20", long)  # with 91 bytes
    for method, path, body in (
        ("PUT", f"/groups/g20/members/{lancelot}", None),
        ("PATCH", f"/users/{galahad}", {"scopes": ["predict:abc"]}),
        ("PATCH", "/groups/g20", {"scopes": [*long["scopes"], "predict:abc"]}),
    ):
        monkeypatch.setattr(service, "MAX_GROUPS", 30)
        message = assert_problem(await arthur.call(method, path, body), 409, "scopes_too_long")
        assert "100" in message["message"]
    assert scopes_in(await log_in(client, GALAHAD)) == set(long["scopes"])
    # What two groups share counts once.
    await arthur.do("POST", "/groups", {"name": "twin", **long})
    await arthur.do("PUT", f"/groups/twin/members/{galahad}")

    monkeypatch.setattr(service, "MAX_GROUPS_IN_TOTAL", 22)
    assert_problem(await arthur.call("POST", "/groups", {"name": "x"}), 409, "group_limit_reached")
    assert errors.MAX_GROUPS_IN_TOTAL == 1_000


@on_postgresql
async def test_the_longest_scopes_and_names_fit_into_the_audit_log(
    arthur: AdminClient, groups: Groups, context: RequestContext
) -> None:
    scopes = [f"predict:a-model-with-a-long-name-{number}" for number in range(99)]
    await groups.create(context, "a" * 64, scopes)
    await groups.update(context, "a" * 64, new_name="b" * 64, scopes=scopes[1:])
    (entry,) = (await arthur.do("GET", "/audit?action=group.update"))["entries"]
    details = entry["details"]
    assert details.items() >= {"name": "b" * 64, "renamed_from": "a" * 64}.items()
    assert details["from"].startswith("predict:a-model-with-a-long-name-0 ")
    assert details["to"].endswith(" more")
    assert details["tokens"] == "revoked"


@on_sqlite
async def test_a_login_without_groups_queries_none(
    client: AsyncClient, arthur: AdminClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[object] = []

    async def run(_context: object, statement: object, parameters: object) -> list[object]:
        asked.append((statement, parameters))
        return []

    await register(client, LANCELOT)
    await register(client, GALAHAD)
    await arthur.do("POST", "/groups", {"name": "knights", "scopes": ["predict"]})
    await arthur.do("PUT", "/groups/knights/members/3")
    monkeypatch.setattr(user_scopes, "fast_queries", SimpleNamespace(run=run))
    await log_in(client, LANCELOT)
    assert asked == []
    await log_in(client, GALAHAD)
    assert asked == [(user_scopes._SELECT, {"user_id": 3})]


@on_sqlite
async def test_only_administrators_see_and_change_groups(client: AsyncClient) -> None:
    await register(client, LANCELOT)
    headers = bearer(await log_in(client, LANCELOT))
    for method, path in (
        *(("GET", "/groups"), ("POST", "/groups"), ("GET", "/groups/a"), ("PATCH", "/groups/a")),
        *(("DELETE", "/groups/a"), ("GET", "/groups/a/members"), ("PUT", "/groups/a/members/2")),
        *(("DELETE", "/groups/a/members/2"), ("GET", "/users/2/groups")),
    ):
        body = {"name": "a"} if method in ("POST", "PATCH") else None
        for sent, status in ((headers, 403), ({}, 401)):
            answer = await client.request(method, path, json=body, headers=sent)
            assert answer.status_code == status, (method, path)
