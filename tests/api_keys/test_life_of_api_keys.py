"""A user creates, changes, rotates, suspends and revokes API keys. Each change that narrows a key
revokes its access tokens, and each key that begins to work is announced to all workers.
"""

import asyncio
import re
from datetime import datetime, timedelta
from typing import Any

import pytest
from fastapi import FastAPI
from httpx import AsyncClient
from sqlalchemy import select

from app.credentials.api_keys.fingerprints import announcement, hash_key
from app.credentials.api_keys.models import ApiKey
from hourpass.api_keys import PATTERN, id_of, is_well_formed
from tests.support.key_calls import KeyCalls, answered, keys_of, sids_of
from tests.support.markers import on_sqlite
from tests.support.settings import Clock
from tests.support.users import (
    ARTHUR,
    GALAHAD,
    LANCELOT,
    assert_problem,
    bearer,
    log_in,
    register,
    revoked,
)

DAY = timedelta(days=1)


async def lancelots(client: AsyncClient, *scopes: str) -> KeyCalls:
    user_id = await register(client, LANCELOT)
    if scopes:
        headers = bearer(await log_in(client, ARTHUR))
        body = {"scopes": scopes}
        answered(await client.patch(f"/users/{user_id}", json=body, headers=headers))
    return await keys_of(client, LANCELOT)


async def row_of(app: FastAPI, key_id: str) -> ApiKey:
    async with app.state.database.session() as session:
        row = await session.scalar(select(ApiKey).where(ApiKey.id == key_id))
    assert isinstance(row, ApiKey)
    return row


def time_of(text: str) -> datetime:
    return datetime.fromisoformat(text)


async def test_a_key_is_shown_once_and_only_its_hash_is_stored(
    app: FastAPI, client: AsyncClient, clock: Clock
) -> None:
    keys = await lancelots(client, "predict:fraud-*", "train")
    response = await keys.send(
        "POST",
        name="nightly batch",
        label="churn",
        scopes=["train", "predict:fraud-v3"],
        expires_in_days=30,
        networks=["2001:DB8::/32", "192.0.2.0/24"],
    )
    made = answered(response, 201)
    assert response.headers["Cache-Control"] == "no-store"
    key = made.pop("key")
    assert re.fullmatch(PATTERN, key)
    assert is_well_formed(key)
    assert made == {
        "id": id_of(key),
        "name": "nightly batch",
        "label": "churn",
        "status": "active",
        "scopes": ["predict:fraud-v3", "train"],
        "networks": ["192.0.2.0/24", "2001:db8::/32"],
        "created_at": "2026-11-23T12:00:00Z",
        "expires_at": "2026-12-23T12:00:00Z",
        "last_used_on": None,
        "suspended_at": None,
        "revoked_at": None,
        "replaced_by": None,
    }
    assert await keys.get(made["id"]) == made
    page = answered(await keys.send("GET"))
    assert page == {"api_keys": [made], "next_cursor": None}
    row = await row_of(app, made["id"])
    assert row.secret_hash == hash_key(key)
    assert (await revoked(client))[-1] == announcement(row.secret_hash)
    assert 0 <= row.version < 2**30
    audit = answered(await client.get("/me/audit", headers=keys.headers))
    assert key[11:] not in str(audit)
    default = await keys.create()
    assert time_of(default["expires_at"]) - clock() >= 90 * DAY
    assert (default["scopes"], default["networks"], default["label"]) == (None, [], None)
    assert (await keys.create(scopes=[]))["scopes"] == []


async def test_keys_are_listed_suspended_revoked_and_rotated(
    client: AsyncClient, clock: Clock, subtests: pytest.Subtests
) -> None:
    keys = await lancelots(client)
    with subtests.test("suspended keys can be resumed and revoked ones cannot"):
        made = await keys.create()
        key_id, announced = made["id"], announcement(hash_key(made["key"]))
        for _ in range(2):  # safe to repeat
            assert (await keys.act(key_id, "suspend"))["status"] == "suspended"
        assert len(await sids_of(client, key_id)) == 1
        assert_problem(await keys.send("POST", f"/{key_id}/rotate"), 409, "api_key_suspended")
        for _ in range(2):
            resumed = await keys.act(key_id, "resume")
            assert (resumed["status"], resumed["suspended_at"]) == ("active", None)
        assert (await revoked(client)).count(announced) == 2
        for _ in range(2):
            assert (await keys.revoke(key_id))["status"] == "revoked"
        assert len(await sids_of(client, key_id)) == 2
        assert await keys.names() == []
        for method, path in (
            ("POST", "suspend"),
            ("POST", "resume"),
            ("POST", "rotate"),
            ("PATCH", ""),
        ):
            with subtests.test(f"{method} {path}"):
                answer = await keys.send(
                    method, f"/{key_id}/{path}".rstrip("/"), **({} if path else {"name": "x"})
                )
                assert_problem(answer, 409, "api_key_not_active")
    with subtests.test("rotated once, however many ask at once"):
        key_id = (await keys.create())["id"]
        answers = await asyncio.gather(
            *(keys.send("POST", f"/{key_id}/rotate", overlap_seconds=60) for _ in range(4))
        )
        assert sorted(answer.status_code for answer in answers) == [201, 409, 409, 409]
        assert len(await keys.names()) == 2
        for listed in answered(await keys.send("GET"))["api_keys"]:
            await keys.revoke(listed["id"])
    with subtests.test("pages come newest first"):
        await register(client, GALAHAD)
        galahads = await keys_of(client, GALAHAD)
        five = [await keys.create(f"key {number}") for number in range(5)]
        await galahads.create("galahad's")
        page = answered(await keys.send("GET", "?limit=2"))
        assert [api_key["name"] for api_key in page["api_keys"]] == ["key 4", "key 3"]
        await keys.create("key 5")  # neither repeats nor hides another one
        await keys.revoke(five[1]["id"])
        query = f"?limit=2&cursor={page['next_cursor']}"
        assert await keys.names(query) == ["key 2", "key 0"]
        assert await keys.names(f"{query}&include_ended=true") == ["key 2", "key 1"]
        assert await keys.names(f"?cursor={2**63 - 1}") == [
            "key 5",
            "key 4",
            "key 3",
            "key 2",
            "key 0",
        ]
        assert await keys.names("?cursor=1") == []
        clock.advance(90 * DAY + timedelta(seconds=1))
        later = await keys_of(client, LANCELOT)
        assert await later.names() == []
        assert len(await later.names("?include_ended=1")) == 6 + 3
        assert (await later.get(five[0]["id"]))["status"] == "expired"
        for query in ("?limit=0", "?limit=201", "?cursor=x", "?all=1"):
            assert_problem(await later.send("GET", query), 422, "invalid_request")


@on_sqlite
async def test_a_change_revokes_tokens_only_if_it_narrows_the_key(
    app: FastAPI, client: AsyncClient, subtests: pytest.Subtests
) -> None:
    keys = await lancelots(client, "predict:*", "train", "introspect")
    made = await keys.create(scopes=["predict:*", "train"], expires_in_days=20)
    key_id = made["id"]
    changes: list[tuple[dict[str, Any], dict[str, Any], bool]] = [
        ({"name": "hourly"}, {"name": "hourly"}, False),
        ({"label": "x"}, {"label": "x"}, False),
        ({"label": ""}, {"label": None}, False),
        ({"label": None, "networks": None}, {}, False),
        ({"scopes": ["train", "predict:*"]}, {}, False),
        ({"scopes": ["predict:fraud-*"]}, {"scopes": ["predict:fraud-*"]}, True),
        ({"expires_in_days": 10}, {"expires_at": "2026-12-03T12:00:00Z"}, True),
        ({"expires_in_days": 10}, {}, False),
        ({"networks": ["192.0.2.7/32"]}, {"networks": ["192.0.2.7/32"]}, True),
        ({"networks": []}, {"networks": []}, True),
        ({"scopes": []}, {"scopes": []}, True),
    ]
    expected = {name: value for name, value in made.items() if name != "key"}
    for body, difference, narrows in changes:
        with subtests.test(str(body)):
            version = (await row_of(app, key_id)).version
            before = await revoked(client)
            expected |= difference
            assert await keys.change(key_id, **body) == expected
            added = [f"sid:{key_id}.{version}"] if narrows else []
            assert (await revoked(client))[len(before) :] == added
            assert (await row_of(app, key_id)).version == version + narrows
    for body, field, problem in (
        ({"scopes": ["train"]}, "scopes", "The key does not have train. Create a key with more"),
        ({"expires_in_days": 11}, "expires_in_days", "The key ends before that"),
    ):
        with subtests.test(f"widened by {body}"):
            refused = assert_problem(
                await keys.send("PATCH", f"/{key_id}", **body), 422, "invalid_request"
            )
            assert refused["fields"][0]["field"] == field
            assert refused["fields"][0]["message"].startswith(problem)
    with subtests.test("a key with the scopes of its owner"):
        default = await keys.create()
        for scope in ("introspect", "teach"):  # named at its making, or not at all
            response = await keys.send("PATCH", f"/{default['id']}", scopes=[scope])
            assert_problem(response, 422, "invalid_request")
        narrowed = await keys.change(default["id"], scopes=["predict:fraud-v3"])
        assert narrowed["scopes"] == ["predict:fraud-v3"]


@on_sqlite
async def test_a_rotated_key_works_until_the_end_of_the_overlap(
    app: FastAPI, client: AsyncClient, clock: Clock, subtests: pytest.Subtests
) -> None:
    keys = await lancelots(client, "predict")
    body = {"scopes": ["predict"], "label": "x", "networks": ["192.0.2.0/24"]}
    old = await keys.create("batch", expires_in_days=10, **body)
    version = (await row_of(app, old["id"])).version
    clock.advance(4 * DAY)
    keys = await keys_of(client, LANCELOT)
    new = await keys.rotate(old["id"], overlap_seconds=3600)
    assert new["key"] != old["key"]
    assert {name: new[name] for name in ("name", *body)} == {"name": "batch", **body}
    assert time_of(new["expires_at"]) - time_of(new["created_at"]) == 10 * DAY
    replaced = await keys.get(old["id"])
    assert (replaced["status"], replaced["replaced_by"]) == ("active", new["id"])
    assert time_of(replaced["expires_at"]) == clock() + timedelta(hours=1)
    assert (await revoked(client))[-2:] == [
        announcement(hash_key(new["key"])),
        f"sid:{old['id']}.{version}",
    ]
    with subtests.test("a second time"):
        refused = await keys.send("POST", f"/{old['id']}/rotate")
        assert_problem(refused, 409, "api_key_rotated")
    with subtests.test("never longer than before"):
        clock.advance(9 * DAY)
        keys = await keys_of(client, LANCELOT)
        newer = await keys.rotate(new["id"], overlap_seconds=7 * 24 * 3600)
        assert (await keys.get(new["id"]))["expires_at"] == new["expires_at"]
    with subtests.test("without an overlap"):
        await keys.rotate(newer["id"])
        ended = await keys.get(newer["id"])
        assert ended["status"] == "revoked"
        refused = await keys.send("POST", f"/{newer['id']}/rotate")
        assert_problem(refused, 409, "api_key_not_active")
