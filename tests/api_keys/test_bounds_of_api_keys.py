"""What a key may be called, allowed and limited to; how many keys a user can have and create."""

import asyncio
from datetime import timedelta
from typing import Any

import pytest
from httpx import AsyncClient

from app.credentials.api_keys import service
from app.credentials.api_keys.limits import MAX_PER_USER
from app.security.rate_limits.limits import API_KEY_CHANGE, NEW_API_KEY, Rate
from tests.support.apps import started_client
from tests.support.key_calls import KeyCalls, keys_of
from tests.support.markers import on_sqlite
from tests.support.settings import ARTHUR_ADMINISTERS, Clock, make_settings
from tests.support.users import ARTHUR, GALAHAD, LANCELOT, assert_problem, bearer, register

CIDR = "Must be in CIDR notation, such as 192.0.2.0/24 or 2001:db8::/32"
SLASHES = "A name does not begin or end with /, and has no //"
INVISIBLE = "Must not contain control or invisible characters"

REFUSED: list[tuple[str, Any, str]] = [
    ("name", None, "Field required"),
    ("name", "", "Field required"),
    ("name", "x" * 65, "String should have at most 64 characters"),
    ("name", " x", "Must not begin or end with a space"),
    ("name", "x\n", "Must not begin or end with a space"),
    ("name", "x\u202ey", INVISIBLE),
    ("name", "x \u0301", "Must have a letter before each combining mark"),
    ("name", 7, "Input should be a valid string"),
    ("label", "x" * 65, "String should have at most 64 characters"),
    ("label", "\u200b", INVISIBLE),
    ("expires_in_days", 0, "Input should be greater than or equal to 1"),
    ("expires_in_days", 367, "Input should be less than or equal to 366"),
    ("scopes", ["teach"], "The owner of the key does not have teach"),
    (
        "scopes",
        ["predict:fraud-v3", "predict:other"],
        "The owner of the key does not have predict:other",
    ),
    ("scopes", ["predict:*"], "The owner of the key does not have predict:*"),
    ("scopes", ["admin"], "The owner of the key does not have admin"),
    ("scopes", ["offline_access"], "A key cannot have offline_access"),
    ("scopes", ["*"], "A * stands at the end of a name, as in predict:fraud-*"),
    ("scopes", ["pre*dict:x"], "A * stands at the end of a name, as in predict:fraud-*"),
    ("scopes", ["predict:**"], "A * stands at the end of a name, as in predict:fraud-*"),
    ("scopes", ["predict:"], "A name follows the colon, as in predict:fraud-v3"),
    ("scopes", ["predict:a//b"], SLASHES),
    ("scopes", ["predict:" + "x" * 300], "A scope has at most 128 characters"),
    (
        "scopes",
        ["predict:fraud-" + f"{n:0100}" for n in range(10)],
        "Must have at most 1000 characters in total",
    ),
    (
        "scopes",
        ["predict:fraud-1"] * 101,
        "List should have at most 100 items after validation, not 101",
    ),
    ("scopes", "predict", "Input should be a valid list"),
    ("networks", ["192.0.2.7/24"], "Write 192.0.2.0/24: the address has bits beyond its prefix"),
    ("networks", ["2001:db8::7/32"], "Write 2001:db8::/32: the address has bits beyond its prefix"),
    ("networks", ["192.0.2.7"], "Write 192.0.2.7/32 for a single address"),
    ("networks", ["2001:db8::7"], "Write 2001:db8::7/128 for a single address"),
    ("networks", ["::ffff:192.0.2.0/120"], "Write IPv4 networks as such, for example 192.0.2.0/24"),
    ("networks", ["192.0.2.0/255.255.255.0"], CIDR),
    ("networks", ["192.0.2.0/33"], CIDR),
    ("networks", ["fe80::%eth0/64"], CIDR),
    ("networks", ["192.0.2.0/024"], CIDR),
    ("networks", ["x" * 2_000], CIDR),
    ("networks", [""], CIDR),
    (
        "networks",
        [f"192.0.2.{n}/32" for n in range(11)],
        "List should have at most 10 items after validation, not 11",
    ),
    ("key", "hp_x", "Extra inputs are not permitted"),
    ("otp", "12", "Must be 6 digits or a recovery code"),
]


@on_sqlite
async def test_a_key_that_breaks_a_rule_is_not_made(
    client: AsyncClient, arthurs_token: str, subtests: pytest.Subtests
) -> None:
    lancelot = await register(client, LANCELOT)
    scopes = {"scopes": ["predict:fraud-*", "train"]}
    await client.patch(f"/users/{lancelot}", json=scopes, headers=bearer(arthurs_token))
    keys = await keys_of(client, LANCELOT)
    for member, value, problem in REFUSED:
        with subtests.test(f"{member} {value}"[:60]):
            answer = await keys.send("POST", **{"name": "batch", member: value})
            refusal = assert_problem(answer, 422, "invalid_request")
            assert refusal["fields"] == [{"field": member, "message": problem}]
    assert await keys.names() == []
    made = await keys.create(
        "x" * 64,
        label="y" * 64,
        expires_in_days=366,
        scopes=["predict:fraud-v3", "predict:fraud-a*", "train", "train"],
        networks=[f"192.0.2.{n}/32" for n in range(10)],
    )
    assert made["scopes"] == ["predict:fraud-a*", "predict:fraud-v3", "train"]
    for body in (
        {"name": ""},
        {"name": " "},
        {"expires_in_days": 0},
        {"networks": ["::1"]},
        {"x": 1},
    ):
        with subtests.test(f"change to {body}"):
            answer = await keys.send("PATCH", f"/{made['id']}", **body)
            assert_problem(answer, 422, "invalid_request")
    for overlap in (-1, 604_801, "x"):
        with subtests.test(f"overlap of {overlap}"):
            answer = await keys.send("POST", f"/{made['id']}/rotate", overlap_seconds=overlap)
            assert_problem(answer, 422, "invalid_request")
    for key_id in ("x" * 7, "x" * 9, "xxxxxxx_", "1%2F345678"):
        with subtests.test(f"id {key_id}"):
            assert (await keys.send("GET", f"/{key_id}")).status_code in (404, 422)
    arthurs = KeyCalls(client, arthurs_token)
    assert (await arthurs.create(scopes=["admin"]))["scopes"] == ["admin"]
    default = await arthurs.create()
    for scope in ("admin", "introspect", "guard"):
        with subtests.test(scope):
            answer = await arthurs.send("PATCH", f"/{default['id']}", scopes=[scope])
            assert_problem(answer, 422, "invalid_request")


@on_sqlite
async def test_scopes_and_networks_that_are_too_long_for_a_token_are_refused(
    client: AsyncClient, arthurs_token: str
) -> None:
    lancelot = await register(client, LANCELOT)
    scopes: dict[str, Any] = {"scopes": [f"predict:{letter * 110}" for letter in "abcdefgh"]}
    granted = await client.patch(f"/users/{lancelot}", json=scopes, headers=bearer(arthurs_token))
    assert granted.status_code == 200, granted.text
    networks: dict[str, Any] = {
        "networks": [f"2001:db8:{n:x}fff:ffff:ffff:ffff::/96" for n in range(1, 11)]
    }
    keys = await keys_of(client, LANCELOT)
    unlimited, named = await keys.create(), await keys.create(**scopes)
    too_long = [
        await keys.send("POST", name="batch", **networks),
        await keys.send("POST", name="batch", **networks, **scopes),
        await keys.send("PATCH", f"/{unlimited['id']}", **networks),
        await keys.send("PATCH", f"/{named['id']}", **networks),
    ]
    for answer in too_long:
        [problem] = assert_problem(answer, 422, "invalid_request")["fields"]
        assert problem["field"] == "scopes"
        assert "At most 4,096 are possible" in problem["message"]
    assert (await keys.get(named["id"]))["networks"] == []
    await keys.change(named["id"], scopes=scopes["scopes"][:3], **networks)
    await keys.change(unlimited["id"], name="other")


@on_sqlite
async def test_a_key_cannot_have_admin_where_administrators_need_a_second_factor(
    database_url: str, clock: Clock
) -> None:
    """A key has none."""
    settings = make_settings(database_url, admin_second_factor="required", **ARTHUR_ADMINISTERS)
    async with started_client(settings, clock) as client:
        keys = await keys_of(client, ARTHUR)
        answer = await keys.send("POST", name="batch", scopes=["admin"])
        refusal = assert_problem(answer, 422, "invalid_request")
        assert refusal["fields"][0]["message"] == "The owner of the key does not have admin"


async def test_the_number_of_keys_of_a_user_is_limited_however_many_are_made_at_once(
    client: AsyncClient, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "MAX_PER_USER", 5)
    await register(client, LANCELOT)
    await register(client, GALAHAD)
    keys = await keys_of(client, LANCELOT)
    await keys.create("short", expires_in_days=1)
    answers = await asyncio.gather(*(keys.send("POST", name="x") for _ in range(6)))
    refused = [answer for answer in answers if answer.status_code != 201]
    assert len(refused) == 2
    for answer in refused:
        problem = assert_problem(answer, 409, "too_many_api_keys")
        assert f"has {MAX_PER_USER} API keys" in problem["message"]
    assert len(await keys.names()) == 5
    await (await keys_of(client, GALAHAD)).create()  # another user's keys do not count
    made = [answer.json()["id"] for answer in answers if answer.status_code == 201]
    rotated = await keys.rotate(made[0], overlap_seconds=60)  # always possible
    assert_problem(await keys.send("POST", name="x"), 409, "too_many_api_keys")
    await keys.act(made[1], "suspend")  # still counts
    assert_problem(await keys.send("POST", name="x"), 409, "too_many_api_keys")
    await keys.revoke(rotated["id"])
    await keys.create("in its place")
    clock.advance(timedelta(days=1, seconds=1))
    later = await keys_of(client, LANCELOT)
    await later.create("in place of the expired one")
    assert_problem(await later.send("POST", name="x"), 409, "too_many_api_keys")


@on_sqlite
async def test_how_often_a_user_creates_rotates_and_changes_keys_is_limited(
    client: AsyncClient, monkeypatch: pytest.MonkeyPatch, subtests: pytest.Subtests
) -> None:
    await register(client, LANCELOT)
    keys = await keys_of(client, LANCELOT)
    with subtests.test("changes in an hour"), monkeypatch.context() as patch:
        # Suspending and revoking never have to wait.
        patch.setattr(service, "API_KEY_CHANGE", Rate(1, API_KEY_CHANGE.interval))
        key_id = (await keys.create())["id"]
        await keys.act(key_id, "resume")  # nothing to do, so nothing to count
        await keys.change(key_id, name="renamed")
        refused = await keys.send("PATCH", f"/{key_id}", name="again")
        assert_problem(refused, 429, "too_many_attempts")
        assert refused.headers["Retry-After"] == "36"
        await keys.act(key_id, "suspend")
        assert_problem(await keys.send("POST", f"/{key_id}/resume"), 429, "too_many_attempts")
        found = await keys.get(key_id)
        assert (found["name"], found["status"]) == ("renamed", "suspended")
        await keys.revoke(key_id)
    with subtests.test("new keys in a day"):
        monkeypatch.setattr(service, "NEW_API_KEY", Rate(1, NEW_API_KEY.interval))
        await register(client, GALAHAD)
        made = await keys.create()
        for path in ("", f"/{made['id']}/rotate"):
            answer = await keys.send("POST", path, **({} if path else {"name": "x"}))
            assert_problem(answer, 429, "too_many_attempts")
            assert answer.headers["Retry-After"] == "864"
        assert await keys.names() == ["batch"]
        await keys.revoke(made["id"])
        await (await keys_of(client, GALAHAD)).create()
