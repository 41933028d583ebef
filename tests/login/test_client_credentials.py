"""A service account gets an access token with its name and one of its keys (RFC 6749, 4.4)."""

import base64
from datetime import timedelta
from typing import Any
from urllib.parse import quote_plus

import pytest
from fastapi import FastAPI
from httpx import AsyncClient, Response

from hourpass.api_keys import generate_key, id_of
from tests.support.api_keys import insert_key
from tests.support.markers import on_sqlite
from tests.support.settings import Clock
from tests.support.users import LANCELOT, assert_problem, bearer, claims_of, register

NAME = "svc-nightly"
GRANT = {"grant_type": "client_credentials"}


@pytest.fixture
async def account_id(client: AsyncClient, arthurs_token: str) -> int:
    new = {"username": NAME, "scopes": ["predict:fraud-*", "introspect"]}
    answer = await client.post("/service-accounts", json=new, headers=bearer(arthurs_token))
    assert answer.status_code == 201, answer.text
    id_: int = answer.json()["id"]
    return id_


@pytest.fixture
async def key(app: FastAPI, account_id: int) -> str:
    return await insert_key(app, account_id)


def basic(name: str, secret: str) -> dict[str, str]:
    credentials = f"{quote_plus(name)}:{quote_plus(secret)}"
    return {"Authorization": f"Basic {base64.b64encode(credentials.encode()).decode()}"}


async def ask(client: AsyncClient, name: str, secret: str, **members: str) -> Response:
    return await client.post("/token", data={**GRANT, **members}, headers=basic(name, secret))


def assert_refused(answer: Response) -> None:
    problem = assert_problem(answer, 401, "invalid_client")
    assert problem["error_description"] == "Invalid client"
    assert answer.headers["www-authenticate"].startswith("Basic ")
    assert answer.headers["cache-control"] == "no-store"


async def test_the_token_is_that_of_the_key_without_a_refresh_token(
    client: AsyncClient, account_id: int, key: str
) -> None:
    in_form = {**GRANT, "client_id": NAME, "client_secret": key}
    for answer in (
        await ask(client, NAME, key),
        await ask(client, NAME.upper(), key),
        await client.post("/token", data=in_form),
        await client.post("/token", json=in_form),
    ):
        assert answer.status_code == 200, answer.text
        body = answer.json()
        assert (body["token_type"], body["expires_in"], body["scope"]) == (
            "bearer",
            3600,
            "predict:fraud-*",
        )
        assert "refresh_token" not in body
        claims = claims_of(body["access_token"])
        assert (claims["sub"], claims["client_id"], claims["kind"], claims["limited"]) == (
            str(account_id),
            id_of(key),
            "service",
            True,
        )
    headers = bearer(body["access_token"])
    verified = await client.get("/verify", params={"scope": "predict:fraud-v3"}, headers=headers)
    assert verified.status_code == 200
    assert (verified.headers["x-auth-kind"], verified.headers["x-auth-key-id"]) == (
        "service",
        id_of(key),
    )
    assert (await client.get("/me", headers=headers)).json()["kind"] == "service"
    assert_problem(await client.get("/me/sessions", headers=headers), 403, "insufficient_scope")


@on_sqlite
async def test_what_a_service_account_can_do_with_its_credentials(
    client: AsyncClient,
    app: FastAPI,
    arthurs_token: str,
    account_id: int,
    key: str,
    subtests: pytest.Subtests,
) -> None:
    with subtests.test("scope and resource limit the token"):
        resource = "https://models.example.com"
        answer = await ask(client, NAME, key, scope="predict:fraud-v3", resource=resource)
        claims = claims_of(answer.json()["access_token"])
        assert (claims["scope"], claims["aud"]) == ("predict:fraud-v3", resource)
        assert_problem(await ask(client, NAME, key, scope="train"), 400, "invalid_scope")
    with subtests.test("credentials in header and form are refused"):
        # RFC 6749, 2.3: a client uses one method only.
        both = await ask(client, NAME, key, client_id=NAME, client_secret=key)
        assert_problem(both, 400, "invalid_request")
    with subtests.test("special characters are decoded"):
        new = {"username": "svc-a+b: 100%"}
        created = await client.post("/service-accounts", json=new, headers=bearer(arthurs_token))
        odd_key = await insert_key(app, created.json()["id"])
        assert (await ask(client, new["username"], odd_key)).status_code == 200
    with subtests.test("with the scope, it introspects the tokens of others"):
        named = await insert_key(app, account_id, scopes="introspect")
        for secret, active in ((named, True), (key, False)):
            token = (await ask(client, NAME, secret)).json()["access_token"]
            for caller in (token, secret):
                form = {"token": arthurs_token}
                answer = await client.post("/introspect", data=form, headers=bearer(caller))
                assert answer.json()["active"] is active
        form = {"token": named}
        own: dict[str, Any] = (
            await client.post("/introspect", data=form, headers=bearer(named))
        ).json()
        assert (own["kind"], own["key_id"], own["username"]) == ("service", id_of(named), NAME)
    with subtests.test("disabling it revokes its tokens, and enabling it restores only the keys"):
        token = (await ask(client, NAME, key)).json()["access_token"]
        for is_enabled in (False, True):
            change = {"is_enabled": is_enabled}
            path = f"/users/{account_id}"
            assert (await client.patch(path, json=change, headers=bearer(arthurs_token))).is_success
            assert (await client.get("/me", headers=bearer(token))).status_code == 401
            assert ((await ask(client, NAME, key)).status_code == 200) is is_enabled
    with subtests.test("the metadata names the grant and its methods"):
        metadata = (await client.get("/.well-known/oauth-authorization-server")).json()
        assert "client_credentials" in metadata["grant_types_supported"]
        methods = {"none", "client_secret_basic", "client_secret_post"}
        assert set(metadata["token_endpoint_auth_methods_supported"]) == methods


@on_sqlite
async def test_wrong_credentials_of_every_kind_get_one_response(
    client: AsyncClient, app: FastAPI, key: str, account_id: int, clock: Clock
) -> None:
    lancelots_key = await insert_key(app, await register(client, LANCELOT))
    others_key = await insert_key(app, account_id, networks="192.0.2.0/24")
    for name, secret in (
        (NAME, generate_key()),
        (NAME, "knight of the cart"),
        (NAME, ""),
        ("", key),
        ("svc-nobody", key),
        ("arthur", key),
        ("lancelot", lancelots_key),  # a person's
        (NAME, lancelots_key),
        (NAME, others_key),  # from another network
        (NAME * 100, key * 100),
        (NAME, key.swapcase()),
    ):
        assert_refused(await ask(client, name, secret))
    for members in ({}, {"client_id": NAME}, {"client_secret": key}):
        assert_refused(await client.post("/token", data={**GRANT, **members}))
    suspended_key = await insert_key(app, account_id, suspended_at=clock())
    assert_refused(await ask(client, NAME, suspended_key))
    assert (await ask(client, NAME, key)).status_code == 200
    clock.advance(timedelta(days=91))
    assert_refused(await ask(client, NAME, key))
