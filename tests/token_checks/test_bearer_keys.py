"""An API key works where an access token works, except in URLs."""

import asyncio
from datetime import timedelta
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from app.context import RequestContext
from app.credentials.api_keys import exchange as exchanges
from app.credentials.api_keys import live_keys
from app.database.engine import begin_write
from hourpass.api_keys import generate_key, id_of
from tests.support.api_keys import (
    change_key,
    exchange,
    forge,
    insert_key,
    keys_are_loaded,
    signatures,
    statements,
)
from tests.support.apps import client_of
from tests.support.markers import on_sqlite
from tests.support.settings import Clock
from tests.support.users import (
    ARTHUR,
    LANCELOT,
    assert_problem,
    bearer,
    claims_of,
    kid_of,
    log_in,
    register,
    token_is_valid,
)

ARTHURS_ID = 1
SECOND = timedelta(seconds=1)


@pytest.fixture
async def key(app: FastAPI) -> str:
    """Arthur's, with the scopes `admin` and `introspect`."""
    return await insert_key(app, ARTHURS_ID, scopes="admin introspect")


async def verify(client: httpx.AsyncClient, key: str, query: str = "") -> httpx.Response:
    return await client.get(f"/verify{query}", headers=bearer(key))


async def test_a_key_works_as_a_bearer_token(
    client: httpx.AsyncClient, key: str, subtests: pytest.Subtests
) -> None:
    for name, value in {"Bearer": f"bEaReR {key}", "bare": key}.items():
        with subtests.test(name):
            for _ in range(2):  # from the database, then from memory
                answer = await client.get("/verify?scope=admin", headers={"Authorization": value})
                assert answer.status_code == 200, answer.text
                assert answer.headers["x-auth-user-id"] == str(ARTHURS_ID)
                assert answer.headers["x-auth-scopes"] == "admin"
    with subtests.test("a scope that it lacks"):
        assert_problem(await verify(client, key, "?scope=train"), 403, "insufficient_scope")
    with subtests.test("for any audience"):
        for _ in range(2):
            assert (await verify(client, key, "?audience=fraud-api")).status_code == 200
        token = (await exchange(client, key)).json()["token"]
        assert_problem(await verify(client, token, "?audience=fraud-api"), 401, "invalid_token")
        token = (await exchange(client, key, audience="fraud-api")).json()["token"]
        assert (await verify(client, token, "?audience=fraud-api")).status_code == 200
        assert_problem(await verify(client, token), 401, "invalid_token")
    with subtests.test("/me"):
        answer = await client.get("/me", headers=bearer(key))
        assert answer.status_code == 200, answer.text
        assert answer.json()["username"] == ARTHUR["username"]
    with subtests.test("reads of administrators"):
        assert (await client.get("/users", headers=bearer(key))).status_code == 200
        invitation = await client.post("/invitations", json={}, headers=bearer(key))
        assert_problem(invitation, 403, "insufficient_scope")


@on_sqlite
async def test_keys_can_be_introspected_and_can_introspect(
    app: FastAPI, client: httpx.AsyncClient, subtests: pytest.Subtests
) -> None:
    lancelots_id = await register(client, LANCELOT)
    key = await insert_key(app, lancelots_id, networks="192.0.2.0/24")
    own = await insert_key(app, lancelots_id)

    async def introspect(requester: str, token: str) -> dict[str, object]:
        answer = await client.post("/introspect", data={"token": token}, headers=bearer(requester))
        assert answer.status_code == 200, answer.text
        body: dict[str, object] = answer.json()
        return body

    login = await log_in(client, LANCELOT)
    with subtests.test("the user's own, from any network"):
        found = await introspect(login, key)
        assert found["active"] is True
        assert found["client_id"] == id_of(key)
        assert found["networks"] == ["192.0.2.0/24"]
        assert found["sub"] == str(lancelots_id)
    with subtests.test("that of a token of a key"):
        token = (await exchange(client, own)).json()["token"]
        assert (await introspect(login, token))["client_id"] == id_of(own)
    with subtests.test("another user's, by a key"):
        arthurs = await insert_key(app, ARTHURS_ID, scopes="admin")
        assert (await introspect(arthurs, key))["active"] is True
        assert await introspect(own, arthurs) == {"active": False}
        assert await introspect(login, arthurs) == {"active": False}
    with subtests.test("an unknown one"):
        assert await introspect(login, generate_key()) == {"active": False}
    with subtests.test("by an unknown one"):
        answer = await client.post(
            "/introspect", data={"token": key}, headers=bearer(generate_key())
        )
        assert_problem(answer, 401, "invalid_token")


@on_sqlite
async def test_a_key_in_a_url_is_refused_and_not_logged(
    app: FastAPI, client: httpx.AsyncClient, key: str, capfd: pytest.CaptureFixture[str]
) -> None:
    await keys_are_loaded(app)
    assert (await verify(client, key)).status_code == 200
    assert_problem(await client.get(f"/token_status/{key}"), 401, "invalid_token")
    for path in (f"/verify?access_token={key}", f"/me?access_token={key}", f"/verify?token={key}"):
        assert_problem(await client.get(path), 401, "missing_token")
    for path in (f"/verify/{key}", f"/{key}"):
        assert (await client.get(path)).status_code in (401, 404)
    await asyncio.sleep(0.1)  # the log is written every 50 ms
    logged = capfd.readouterr().err
    assert "/token_status/{token}" in logged
    assert key[12:20] not in logged


@on_sqlite
async def test_every_refused_key_gets_the_same_401(
    app: FastAPI, client: httpx.AsyncClient, clock: Clock, subtests: pytest.Subtests
) -> None:
    good = await insert_key(app, ARTHURS_ID)
    columns: dict[str, dict[str, Any]] = {
        "revoked": {"revoked_at": clock()},
        "suspended": {"suspended_at": clock()},
        "expired": {"expires_at": clock()},
        "of another network": {"networks": "192.0.2.0/24 2001:db8::/32"},
    }
    stored = {
        name: await insert_key(app, ARTHURS_ID, **changes) for name, changes in columns.items()
    }
    cases = {
        **stored,
        "unknown": generate_key(),
        "wrong checksum": good[:-1] + ("0" if good[-1] != "0" else "1"),
        "upper case": good.upper(),
        "too long": good + "0",
        "10 KiB": good + "0" * 10_240,
        "spaces": f"{good[:20]} {good[20:]}",
        "not ASCII": f"{good[:-1]}é",
    }
    expected = (await client.get("/verify", headers=bearer("eyJ.x.y"))).content
    for path in ("/verify", "/me"):
        for name, key in cases.items():
            with subtests.test(name, path=path):
                headers = {b"Authorization": f"Bearer {key}".encode("latin-1")}
                answer = await client.get(path, headers=headers)
                assert_problem(answer, 401, "invalid_token")
                assert answer.content == expected
    assert (await verify(client, good)).status_code == 200


@on_sqlite
async def test_a_key_works_from_its_networks_only(
    app: FastAPI, client: httpx.AsyncClient, subtests: pytest.Subtests
) -> None:
    key = await insert_key(app, ARTHURS_ID, networks="10.1.0.0/16 2001:db8::/32")
    token = (await exchange(client, key)).json()["token"]  # by an API, from anywhere
    cases = {
        "10.1.2.3": True,
        "10.2.0.1": False,
        "2001:db8::7": True,
        "2001:db9::7": False,
        "::ffff:10.1.2.3": True,
        "": False,
    }
    for address, works in cases.items():
        async with client_of(app, address) as other:
            for path, credential in {
                "/verify": key,
                "/me": token,
                f"/token_status/{token}": key,
            }.items():
                with subtests.test(address, path=path):
                    answer = await other.get(path, headers=bearer(credential))
                    assert answer.status_code == (200 if works else 401)


async def test_operations_that_revoke_the_tokens_of_a_key_apply_to_the_key_too(
    app: FastAPI,
    client: httpx.AsyncClient,
    clock: Clock,
    subtests: pytest.Subtests,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Except that a valid key is exchanged anew."""
    lancelots_id = await register(client, LANCELOT)
    admin = bearer(await log_in(client, ARTHUR))
    await keys_are_loaded(app)

    async def refused(key: str) -> None:
        for _ in range(2):
            assert_problem(await verify(client, key), 401, "invalid_token")
        assert_problem(await exchange(client, key), 400, "invalid_request")

    endings: dict[str, dict[str, Any]] = {
        "revoked": {"revoked_at": clock()},
        "suspended": {"suspended_at": clock()},
        "expired": {"expires_at": clock() - SECOND},
    }
    for name, changes in endings.items():
        with subtests.test(name):
            key = await insert_key(app, lancelots_id)
            token = (await exchange(client, key)).json()["token"]
            await change_key(app, key, **changes)
            assert not await token_is_valid(client, token)
            await refused(key)
    with subtests.test("narrowed"):
        key = await insert_key(app, ARTHURS_ID, scopes="admin introspect")
        token = (await exchange(client, key)).json()["token"]
        await change_key(app, key, scopes="introspect")
        assert not await token_is_valid(client, token)
        assert_problem(await verify(client, key, "?scope=admin"), 403, "insufficient_scope")
    with subtests.test("its owner is disabled, and enabled again"):
        key = await insert_key(app, lancelots_id)
        token = (await exchange(client, key)).json()["token"]
        await client.put(f"/toggle-user-permission/{lancelots_id}/0", headers=admin)
        await refused(key)
        await client.put(f"/toggle-user-permission/{lancelots_id}/1", headers=admin)
        assert (await verify(client, key)).status_code == 200
        assert not await token_is_valid(client, token)
    with subtests.test("its token is revoked"):
        token = (await exchange(client, key)).json()["token"]
        await client.post("/revoke", data={"token": token})
        assert (await verify(client, key)).status_code == 200
        assert (await exchange(client, key)).json()["token"] != token
    with subtests.test("the signing key is revoked"):
        token = (await exchange(client, key)).json()["token"]
        with signatures(app, monkeypatch) as signed:
            async with app.state.database.session() as session:
                context = RequestContext(session, clock())
                await begin_write(session)
                await app.state.services.keys.revoke(context, kid_of(token))
                await app.state.services.revocations.publish(context, f"kid:{kid_of(token)}")
                await session.commit()
            answers = await asyncio.gather(*(verify(client, key) for _ in range(5)))
            assert {answer.status_code for answer in answers} == {200}
            assert len(signed) == 1
        assert kid_of(signed[0]) != kid_of(token)
    with subtests.test("its owner is removed"):
        admin = bearer(await log_in(client, ARTHUR))  # the revoked key signed the former token
        await client.delete(f"/remove-user/{lancelots_id}", headers=admin)
        await refused(key)


@on_sqlite
async def test_a_known_key_and_an_unknown_one_need_no_statement(
    app: FastAPI, client: httpx.AsyncClient, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await keys_are_loaded(app)
    with statements(app) as found, signatures(app, monkeypatch) as signed:
        answers = await asyncio.gather(*(verify(client, key) for _ in range(5)))
        assert {answer.status_code for answer in answers} == {200}
        assert len(signed) == 1
        assert len([one for one in found if "FROM api_keys" in one]) == 1
        found.clear()
        for _ in range(5):
            assert (await verify(client, key)).status_code == 200
        forged = [generate_key() for _ in range(5)]
        forged += [forge(key) for _ in forged]
        answers = await asyncio.gather(*(verify(client, one) for one in forged))
        assert {answer.status_code for answer in answers} == {401}
        # On a busy host, the revocations may not be fresh, and the database confirms the token.
        assert [one for one in found if "api_keys" in one] == []


async def test_without_fresh_revocations_known_and_forged_keys_cost_the_same_queries(
    app: FastAPI, client: httpx.AsyncClient, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await keys_are_loaded(app)
    assert (await verify(client, key)).status_code == 200
    monkeypatch.setattr(app.state.revocation_cache, "is_fresh", lambda: False)
    monkeypatch.setattr(app.state.revocation_cache, "wait_for_read", _false)
    asked = []
    for forged in (generate_key(), forge(key)):
        with statements(app) as found:
            assert_problem(await verify(client, forged), 401, "invalid_token")
        asked.append(found)
    assert asked[0] == asked[1]
    assert len(asked[0]) == 1
    with signatures(app, monkeypatch) as signed:
        for _ in range(3):
            assert (await verify(client, key)).status_code == 200
        assert signed == []  # the database confirms the token that there is
        await change_key(app, key, revoked_at=app.state.clock())
        assert_problem(await verify(client, key), 401, "invalid_token")


@on_sqlite
async def test_the_cache_of_tokens_of_keys_is_bounded(
    app: FastAPI, client: httpx.AsyncClient, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exchanges, "MAX_TOKENS", 6)
    monkeypatch.setattr(exchanges, "MAX_TOKENS_OF_KEY", 3)
    others = [await insert_key(app, ARTHURS_ID, scopes="admin introspect") for _ in range(3)]
    (reader,) = app.state.token_checker.readers

    async def sizes() -> list[int]:
        found = [len(tokens) for tokens in reader._exchanged.values()]
        assert sum(found) == reader._count
        return found

    for scope in ("", "admin", "introspect", "admin x", "admin y"):
        await exchange(client, key, scope=scope)
    assert await sizes() == [3]
    for other in others:
        await exchange(client, other)
    assert await sizes() == [3, 1, 1, 1]
    await exchange(client, others[0], scope="admin")  # drops those of the oldest key
    assert await sizes() == [1, 1, 2]
    assert claims_of((await exchange(client, key)).json()["token"])["scope"] == "admin"


async def _false() -> bool:
    """The database has not answered for a second."""
    return False


async def test_anybody_who_has_a_key_can_revoke_it(
    app: FastAPI, client: httpx.AsyncClient, key: str
) -> None:
    await keys_are_loaded(app)
    ended = await insert_key(app, ARTHURS_ID, revoked_at=app.state.clock())
    for text in (forge(key), generate_key(), key[:-1], key.upper(), ended):
        assert not await is_revoked(client, text)
    token = (await exchange(client, key)).json()["token"]
    assert await is_revoked(client, f"{key}\n")
    assert not await token_is_valid(client, token)
    assert_problem(await verify(client, key), 401, "invalid_token")
    assert not await is_revoked(client, key)
    suspended = await insert_key(app, ARTHURS_ID, suspended_at=app.state.clock())
    assert_problem(await verify(client, suspended), 401, "invalid_token")  # and is unknown now
    assert await is_revoked(client, suspended)
    admin = bearer(await log_in(client, ARTHUR))
    path = f"/me/api-keys/{id_of(suspended)}"
    assert (await client.get(path, headers=admin)).json()["status"] == "revoked"


@on_sqlite
async def test_a_flood_of_invented_keys_to_revoke_costs_few_queries(
    app: FastAPI, client: httpx.AsyncClient, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await keys_are_loaded(app)
    monkeypatch.setattr(live_keys, "monotonic", lambda: 7.0)
    monkeypatch.setattr(live_keys, "MAX_REVOCATIONS_PER_SECOND", 5)
    with statements(app) as found:
        for _ in range(live_keys.MAX_REVOCATIONS_PER_SECOND):
            assert not await is_revoked(client, generate_key())
        asked = len(found)
        answer = await client.post("/revoke", data={"token": generate_key()})
        assert_problem(answer, 503, "temporarily_unavailable")
        assert len(found) == asked
    assert await is_revoked(client, key)


async def is_revoked(client: httpx.AsyncClient, text: str) -> bool:
    """Whether this request revoked it."""
    answer = await client.post("/revoke", data={"token": text})
    assert answer.status_code == 200, answer.text
    return bool(answer.json()["revoked"])
