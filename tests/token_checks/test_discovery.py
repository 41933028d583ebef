"""Published keys (RFC 7517), metadata of the server (RFC 8414) and standard tokens (RFC 9068), so
that any API can verify tokens by itself."""

import re
from collections.abc import Callable
from typing import Any

import pytest
from authlib.oauth2.rfc8414 import AuthorizationServerMetadata
from httpx import AsyncClient
from joserfc import jwt
from joserfc.jwk import KeySet, KeySetSerialization

from app.context import RequestContext
from app.settings import Settings
from app.users.service import Users
from tests.support.apps import started_client
from tests.support.markers import on_sqlite
from tests.support.settings import Clock, make_settings
from tests.support.users import (
    ARTHUR,
    LANCELOT,
    assert_problem,
    bearer,
    claims_of,
    header_of,
    log_in,
    open_session,
    refresh,
    register,
    token_is_valid,
)

# None of this depends on the kind of database.
pytestmark = on_sqlite

JWKS = "/.well-known/jwks.json"
METADATA = "/.well-known/oauth-authorization-server"
SECRET = "only the knights of the round table know it"

EC_MEMBERS = {
    "kty": "EC",
    "use": "sig",
    "alg": "ES256",
    "crv": "P-256",
    "kid": ...,
    "x": ...,
    "y": ...,
}
RSA_MEMBERS = {"kty": "RSA", "use": "sig", "alg": "RS256", "kid": ..., "n": ..., "e": "AQAB"}


@pytest.fixture
def settings_with(settings: Settings) -> Callable[..., Settings]:
    def change(**changes: object) -> Settings:
        return make_settings(settings.database_url, **changes)

    return change


def verified(token: str, jwks: KeySetSerialization, algorithm: str) -> jwt.Token:
    """As another library verifies it, with only the published keys."""
    return jwt.decode(token, KeySet.import_key_set(jwks), algorithms=[algorithm])


@pytest.mark.first_start
@pytest.mark.parametrize("members", [EC_MEMBERS, RSA_MEMBERS], ids=["ES256", "RS256"])
async def test_another_library_verifies_a_token_with_only_the_published_key(
    settings_with: Callable[..., Settings], clock: Clock, members: dict[str, Any]
) -> None:
    algorithm = members["alg"]
    async with started_client(settings_with(signing_algorithm=algorithm), clock) as client:
        response = await client.get(JWKS)
        assert response.headers["content-type"] == "application/json"
        (key,) = response.json()["keys"]
        assert set(response.json()) == {"keys"}
        assert set(key) == set(members)  # and so nothing private
        assert members == {
            name: key[name] if value != ... else ... for name, value in members.items()
        }

        user_id = await register(client, LANCELOT)
        token = verified(await log_in(client, LANCELOT), response.json(), algorithm)
        assert token.header == {"alg": algorithm, "kid": key["kid"], "typ": "at+jwt"}
        assert token.claims["sub"] == str(user_id)


async def test_a_token_has_the_claims_of_rfc_9068_to_the_letter(
    client: AsyncClient, clock: Clock, settings: Settings
) -> None:
    user_id = await register(client, LANCELOT)
    claims = claims_of(await log_in(client, LANCELOT))
    now = int(clock().timestamp())
    jti, epoch = (
        claims.pop("jti"),
        claims.pop("epoch"),
    )  # ours: revokes all tokens of a user at once
    assert 0 <= epoch < 2**31
    assert claims == {
        "iss": settings.issuer,
        "aud": "ml-api",
        "sub": str(user_id),
        "preferred_username": "lancelot",
        "client_id": "hourpass",
        "iat": now,
        "exp": now + 3600,
        "auth_time": now,
    }
    assert len(jti) >= 16
    assert jti != claims_of(await log_in(client, LANCELOT))["jti"]
    arthurs = claims_of((await open_session(client, ARTHUR))["access_token"])
    assert arthurs["scope"] == "admin offline_access"
    assert re.fullmatch("[0-9a-f]{16}", arthurs["sid"])


async def test_keys_can_be_cached_and_revalidated(
    client: AsyncClient,
) -> None:
    response = await client.get(JWKS)
    assert response.headers["cache-control"] == "public, max-age=300"
    etag = response.headers["etag"]
    assert re.fullmatch('"[^"]+"', etag)
    # A proxy that compresses makes the tag a weak one; RFC 9110, 13.1.2 compares weakly.
    for same in (etag, f"W/{etag}", f'"another", {etag}'):
        response = await client.get(JWKS, headers={"If-None-Match": same})
        assert (response.status_code, response.content) == (304, b"")
        assert response.headers["etag"] == etag
        assert response.headers["cache-control"] == "public, max-age=300"
    response = await client.get(JWKS, headers={"If-None-Match": '"another"'})
    assert response.status_code == 200


async def test_with_hs256_no_key_is_published(
    settings_with: Callable[..., Settings], clock: Clock
) -> None:
    settings = settings_with(signing_algorithm="HS256", hs256_secret=SECRET)
    async with started_client(settings, clock) as client:
        assert (await client.get(JWKS)).json() == {"keys": []}
        metadata = await client.get(METADATA)
        assert "jwks_uri" not in metadata.json()
        assert SECRET not in metadata.text
        await register(client, LANCELOT)
        token = await log_in(client, LANCELOT)
        assert header_of(token)["alg"] == "HS256"
        assert await token_is_valid(client, token)


async def test_the_metadata_is_what_rfc_8414_asks_for(client: AsyncClient) -> None:
    metadata = (await client.get(METADATA)).json()
    assert metadata == {
        "issuer": "http://localhost:8000",
        "token_endpoint": "http://localhost:8000/token",
        "jwks_uri": "http://localhost:8000/.well-known/jwks.json",
        "revocation_endpoint": "http://localhost:8000/revoke",
        "introspection_endpoint": "http://localhost:8000/introspect",
        "service_documentation": "http://localhost:8000/docs",
        "scopes_supported": ["admin", "email", "introspect", "offline_access"],
        "response_types_supported": [],
        "grant_types_supported": [
            "password",
            "refresh_token",
            "client_credentials",
            "urn:ietf:params:oauth:grant-type:token-exchange",
        ],
        "token_endpoint_auth_methods_supported": [
            "none",
            "client_secret_basic",
            "client_secret_post",
        ],
        "revocation_endpoint_auth_methods_supported": ["none"],
    }


@pytest.mark.parametrize(
    "issuer", ["https://auth.camelot.example", "https://camelot.example/auth/"]
)
async def test_every_address_begins_with_the_issuer_as_it_was_set(
    settings_with: Callable[..., Settings], clock: Clock, issuer: str
) -> None:
    async with started_client(settings_with(issuer=issuer), clock) as client:
        metadata = (await client.get(METADATA)).json()
        await register(client, LANCELOT)
        assert metadata["issuer"] == issuer == claims_of(await log_in(client, LANCELOT))["iss"]
        assert metadata["token_endpoint"] == issuer.rstrip("/") + "/token"
        # Authlib takes the empty list for a missing one; there is nothing true to put into it.
        metadata["response_types_supported"] = ["none"]
        AuthorizationServerMetadata(metadata).validate()


async def test_every_endpoint_of_the_metadata_answers(client: AsyncClient) -> None:
    metadata = (await client.get(METADATA)).json()
    path = {
        name: address.removeprefix(metadata["issuer"])
        for name, address in metadata.items()
        if name.endswith(("_endpoint", "_uri", "_documentation"))
    }
    assert len(path) == 5
    login = {**ARTHUR, "grant_type": "password"}
    token = (await client.post(path["token_endpoint"], data=login)).json()["access_token"]
    keys = (await client.get(path["jwks_uri"])).json()
    assert verified(token, keys, "ES256").claims["iss"] == metadata["issuer"]
    form, headers = {"token": token}, bearer(token)
    answer = await client.post(path["introspection_endpoint"], data=form, headers=headers)
    assert answer.json()["active"] is True
    assert (await client.post(path["revocation_endpoint"], data=form)).status_code == 200
    answer = await client.post(path["introspection_endpoint"], data=form, headers=headers)
    assert_problem(answer, 401, "invalid_token")
    assert "swagger" in (await client.get(path["service_documentation"])).text


async def test_every_grant_and_scope_of_the_metadata_works(
    client: AsyncClient, users: Users, context: RequestContext
) -> None:
    metadata = (await client.get(METADATA)).json()
    await users.set_scopes(
        context, await register(client, LANCELOT), {"admin", "email", "introspect"}
    )
    # No client authenticates itself, as token_endpoint_auth_methods_supported says.
    scopes = " ".join(metadata["scopes_supported"])
    login = {**LANCELOT, "grant_type": metadata["grant_types_supported"][0], "scope": scopes}
    answer = (await client.post("/token", data=login)).json()
    assert answer["scope"] == claims_of(answer["token"])["scope"] == scopes
    assert (await refresh(client, answer["refresh_token"])).json()["scope"] == scopes
