"""`POST /token` exchanges an API key for an access token (RFC 8693)."""

import asyncio
from datetime import timedelta

import httpx
import pytest
from fastapi import FastAPI

from hourpass.api_keys import generate_key, id_of
from tests.support.api_keys import (
    EXCHANGE,
    exchange,
    forge,
    insert_key,
    keys_are_loaded,
    signatures,
)
from tests.support.apps import started_client
from tests.support.markers import on_sqlite
from tests.support.settings import ARTHUR_ADMINISTERS, Clock, make_settings
from tests.support.users import (
    ARTHUR,
    LANCELOT,
    assert_problem,
    bearer,
    claims_of,
    log_in,
    register,
    token_is_valid,
)

ARTHURS_ID = 1
SECOND = timedelta(seconds=1)
HALF_AN_HOUR = timedelta(minutes=30)


@pytest.fixture
async def lancelots_id(client: httpx.AsyncClient, arthurs_token: str) -> int:
    id_ = await register(client, LANCELOT)
    change = {"scopes": ["predict", "train"]}
    answer = await client.patch(f"/users/{id_}", json=change, headers=bearer(arthurs_token))
    assert answer.status_code == 200, answer.text
    return id_


async def token_for(client: httpx.AsyncClient, key: str, **members: str) -> str:
    answer = await exchange(client, key, **members)
    assert answer.status_code == 200, answer.text
    token: str = answer.json()["access_token"]
    return token


async def test_a_key_is_exchanged_for_a_token_of_its_owner(
    app: FastAPI, client: httpx.AsyncClient, clock: Clock, lancelots_id: int
) -> None:
    made_at = clock()
    key = await insert_key(
        app, lancelots_id, version=7, networks="10.0.0.0/8 2001:db8::/32", scopes="predict admin"
    )
    clock.advance(timedelta(days=1))
    answer = await exchange(client, key)
    assert answer.status_code == 200, answer.text
    assert answer.headers["cache-control"] == "no-store"
    body = answer.json()
    token = body["token"]
    assert body == {
        "token": token,
        "access_token": token,
        "token_type": "bearer",
        "expires_in": 3600,
        "scope": "predict",
        "issued_token_type": "urn:ietf:params:oauth:token-type:access_token",
    }
    claims = claims_of(token)
    assert claims["sub"] == str(lancelots_id)
    assert claims["preferred_username"] == LANCELOT["username"]
    assert claims["client_id"] == id_of(key)
    assert claims["sid"] == f"{id_of(key)}.7"
    assert claims["limited"] is True
    assert claims["networks"] == ["10.0.0.0/8", "2001:db8::/32"]
    assert claims["auth_time"] == int(made_at.timestamp())
    assert "kind" not in claims
    assert key not in answer.text


@on_sqlite
async def test_how_long_a_token_is_valid_and_returned_again(
    app: FastAPI,
    client: httpx.AsyncClient,
    clock: Clock,
    lancelots_id: int,
    monkeypatch: pytest.MonkeyPatch,
    subtests: pytest.Subtests,
) -> None:
    with subtests.test("a token never outlives its key"):
        key = await insert_key(app, lancelots_id, expires_at=clock() + timedelta(minutes=10))
        answer = (await exchange(client, key)).json()
        assert answer["expires_in"] == 600
        clock.advance(timedelta(minutes=10) - SECOND)
        assert await token_is_valid(client, answer["token"])
        assert (await exchange(client, key)).json()["expires_in"] == 1
        clock.advance(SECOND)
        assert not await token_is_valid(client, answer["token"])
        assert_problem(await exchange(client, key), 400, "invalid_request")
    with subtests.test("a worker returns the same token until half of its life is over"):
        key, other = await insert_key(app, lancelots_id), await insert_key(app, lancelots_id)
        with signatures(app, monkeypatch) as signed:
            tokens = await asyncio.gather(*(token_for(client, key) for _ in range(10)))
            assert len({*tokens}) == len(signed) == 1
            await token_for(client, other)
            await token_for(client, key, scope="predict")
            assert len(signed) == 3
            await token_for(client, key, scope="predict")
            assert len(signed) == 3
            clock.advance(HALF_AN_HOUR - SECOND)
            answer = (await exchange(client, key)).json()
            assert (answer["token"], answer["expires_in"]) == (tokens[0], 1801)
            clock.advance(SECOND)
            answer = (await exchange(client, key)).json()
            assert answer["token"] == signed[-1] != tokens[0]
            assert answer["expires_in"] == 3600
            assert len(signed) == 4
        assert await token_is_valid(client, tokens[0])


@on_sqlite
async def test_audience_and_scopes_are_those_requested_if_the_key_has_them(
    app: FastAPI, client: httpx.AsyncClient, lancelots_id: int, subtests: pytest.Subtests
) -> None:
    key = await insert_key(app, lancelots_id)
    default = await token_for(client, key)
    audience = claims_of(default)["aud"]
    for members, expected in (
        ({"audience": "fraud-api"}, "fraud-api"),
        ({"audience": "a" * 200}, "a" * 200),
        ({"resource": "https://ml.example/v1"}, "https://ml.example/v1"),
        ({"audience": audience}, audience),
    ):
        with subtests.test(str(members)):
            token = await token_for(client, key, **members)
            assert claims_of(token)["aud"] == expected
            assert await token_for(client, key, **members) == token
            assert (token == default) is (expected == audience)
    cases: list[tuple[str, str | None, str | None, str | None]] = [
        ("all", None, None, "predict train"),
        ("those of the key", "predict", None, "predict"),
        ("not more than the owner's", "predict label", None, "predict"),
        ("no scope at all", "label", None, None),
        ("those requested", None, "train", "train"),
        ("in any order", None, "train  predict", "predict train"),
        ("only those that there are", "predict", "predict train", "predict"),
    ]
    for name, scopes, requested, given in cases:
        with subtests.test(name):
            key = await insert_key(app, lancelots_id, scopes=scopes)
            members = {"scope": requested} if requested else {}
            answer = (await exchange(client, key, **members)).json()
            assert answer.get("scope") == given
            assert claims_of(answer["token"]).get("scope") == given
    with subtests.test("nothing left"):
        key = await insert_key(app, lancelots_id, scopes="predict")
        assert_problem(await exchange(client, key, scope="train"), 400, "invalid_scope")
    with subtests.test("an administrator's"):
        key = await insert_key(app, ARTHURS_ID)
        assert "scope" not in (await exchange(client, key)).json()
        key = await insert_key(app, ARTHURS_ID, scopes="admin")
        assert (await exchange(client, key)).json()["scope"] == "admin"


@on_sqlite
async def test_where_administrators_need_a_second_factor_no_key_has_admin(
    database_url: str, clock: Clock
) -> None:
    settings = make_settings(database_url, **ARTHUR_ADMINISTERS, admin_second_factor="required")
    async with started_client(settings, clock) as client:
        app = client._transport.app  # type: ignore[attr-defined]  # of the ASGI transport
        key = await insert_key(app, ARTHURS_ID, scopes="admin predict")
        answer = await exchange(client, key)
        assert answer.status_code == 200
        assert "scope" not in answer.json()


async def test_all_keys_that_are_not_valid_get_one_response(
    subtests: pytest.Subtests,
    app: FastAPI,
    client: httpx.AsyncClient,
    clock: Clock,
    lancelots_id: int,
) -> None:
    good = await insert_key(app, lancelots_id)
    removed_id = await register(client, {**LANCELOT, "username": "mordred"})
    of_removed = await insert_key(app, removed_id)
    disabled_id = await register(client, {**LANCELOT, "username": "gawain"})
    of_disabled = await insert_key(app, disabled_id)
    admin = bearer(await log_in(client, ARTHUR))
    await client.delete(f"/remove-user/{removed_id}", headers=admin)
    await client.put(f"/toggle-user-permission/{disabled_id}/0", headers=admin)
    cases = {
        "unknown id": generate_key(),
        "another secret": forge(good),
        "wrong checksum": good[:-1] + ("0" if good[-1] != "0" else "1"),
        "too short": good[:-1],
        "too long": good + "0",
        "10 KiB": good + "0" * 10_240,
        "upper case": good.upper(),
        "spaces": f" {good}",
        "not ASCII": good[:-1] + "é",
        "a NUL": good[:-1] + "\0",
        "revoked": await insert_key(app, lancelots_id, revoked_at=clock()),
        "suspended": await insert_key(app, lancelots_id, suspended_at=clock()),
        "expired": await insert_key(app, lancelots_id, expires_at=clock() - SECOND),
        "of a removed owner": of_removed,
        "of a disabled owner": of_disabled,
        "an access token": await log_in(client, LANCELOT),
    }
    for loaded in (False, True):
        if loaded:
            await keys_are_loaded(app)
        for name, key in cases.items():
            with subtests.test(name, loaded=loaded):
                answer = await exchange(client, key)
                body = assert_problem(answer, 400, "invalid_request")
                assert body["error_description"] == "Invalid subject_token"
    assert (await exchange(client, good)).status_code == 200
    await client.put(f"/toggle-user-permission/{disabled_id}/1", headers=admin)
    assert (await exchange(client, of_disabled)).status_code == 200


@on_sqlite
async def test_requests_that_are_not_an_exchange_of_a_key_are_refused(
    subtests: pytest.Subtests, app: FastAPI, client: httpx.AsyncClient, lancelots_id: int
) -> None:
    key = await insert_key(app, lancelots_id)
    good = {**EXCHANGE, "subject_token": key}
    access_token = "urn:ietf:params:oauth:token-type:access_token"
    cases: list[tuple[str, dict[str, str | None], str]] = [
        ("no subject token", {"subject_token": None}, "invalid_request"),
        ("no type", {"subject_token_type": None}, "invalid_request"),
        ("another type", {"subject_token_type": access_token}, "invalid_request"),
        ("an actor", {"actor_token": key}, "invalid_request"),
        ("an actor's type", {"actor_token_type": access_token}, "invalid_request"),
        (
            "a JWT",
            {"requested_token_type": "urn:ietf:params:oauth:token-type:id_token"},
            "invalid_request",
        ),
        ("a long audience", {"audience": "a" * 201}, "invalid_request"),
        ("a space in the audience", {"audience": "ml api"}, "invalid_request"),
        ("a relative resource", {"resource": "/models"}, "invalid_target"),
        ("a fragment", {"resource": "https://ml.example/#a"}, "invalid_target"),
        ("both", {"resource": "https://ml.example/", "audience": "ml"}, "invalid_target"),
        (
            "another grant",
            {"grant_type": "urn:ietf:params:oauth:grant-type:x"},
            "unsupported_grant_type",
        ),
    ]
    for name, members, error in cases:
        with subtests.test(name):
            data = {name: value for name, value in {**good, **members}.items() if value}
            answer = await client.post("/token", data=data)
            assert_problem(answer, 400, error)
            assert key not in answer.text
    assert (await client.post("/token", data=good)).status_code == 200
