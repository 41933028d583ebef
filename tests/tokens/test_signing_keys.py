"""Signing keys are created once, shared by all workers and encrypted at rest. A start that cannot
decrypt them fails with a message that names the setting."""

import asyncio
import base64
import hashlib
import hmac
import sys

import pytest
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from fastapi import FastAPI
from sqlalchemy import select

from app.context import RequestContext
from app.database.engine import Database
from app.security.encryption import DecryptionError, Encryptor
from app.settings import Settings
from app.tokens.signing_keys.keys import Keyring
from app.tokens.signing_keys.models import StoredKey
from app.tokens.signing_keys.store import KeyStore
from tests.support.apps import started_client
from tests.support.markers import on_postgresql, on_sqlite
from tests.support.settings import Clock, make_settings
from tests.support.users import LANCELOT, header_of, log_in, register, token_is_valid

pytestmark = pytest.mark.first_start

SECRET_KEY = {"secret_key": "the lady of the lake keeps it safe"}
OTHER_SECRET_KEY = {"secret_key": "mordred has quite another one here"}
HS256 = {"signing_algorithm": "HS256", "hs256_secret": "what Arthur and his knights all know"}
RS256 = {"signing_algorithm": "RS256"}
ES256: dict[str, str] = {}
UNUSED_SECRET = {**HS256, "signing_algorithm": "ES256"}


class Restarts:
    """One database, and services that start on it one after another with other settings."""

    def __init__(self, database_url: str, clock: Clock) -> None:
        self.database_url = database_url
        self.clock = clock

    async def first_token(self, **changes: str) -> str:
        async with started_client(
            make_settings(self.database_url, **changes), self.clock
        ) as client:
            await register(client, LANCELOT)
            return await log_in(client, LANCELOT)

    async def next_token(self, *earlier: str, **changes: str) -> str:
        """One more token, after a check that the earlier ones are still valid."""
        async with started_client(
            make_settings(self.database_url, **changes), self.clock
        ) as client:
            for token in earlier:
                assert await token_is_valid(client, token)
            return await log_in(client, LANCELOT)

    async def stored(self) -> list[StoredKey]:
        database = Database(make_settings(self.database_url))
        async with database.session() as session:
            found = await session.scalars(select(StoredKey).order_by(StoredKey.generation))
            stored = list(found)
        await database.close()
        return stored


@pytest.fixture
def restarts(database_url: str, clock: Clock) -> Restarts:
    return Restarts(database_url, clock)


async def test_the_key_of_the_first_start_serves_the_next_ones_also_after_its_encryption(
    restarts: Restarts,
) -> None:
    """An HS256_SECRET that is not used changes nothing."""
    token = await restarts.first_token(**UNUSED_SECRET)
    header = header_of(token)
    assert header == {"alg": "ES256", "typ": "at+jwt", "kid": header["kid"]}
    for secret_key in ({}, SECRET_KEY, SECRET_KEY):
        another = await restarts.next_token(token, **UNUSED_SECRET, **secret_key)
        assert header_of(another) == header
        (key,) = await restarts.stored()
        assert (key.kid, key.algorithm) == (header["kid"], "ES256")
        assert ("BEGIN" in key.private_key) == (secret_key == {})


async def test_a_key_that_cannot_be_decrypted_is_an_error_in_the_settings_and_stays_unchanged(
    restarts: Restarts,
) -> None:
    token = await restarts.first_token(**SECRET_KEY)
    (key,) = await restarts.stored()
    assert "BEGIN" not in key.private_key
    for change in (ES256, RS256, OTHER_SECRET_KEY, {**OTHER_SECRET_KEY, **RS256}):
        with pytest.raises(DecryptionError, match="SECRET_KEY") as refusal:
            await restarts.next_token(**change)
        for secret in (SECRET_KEY, OTHER_SECRET_KEY):
            assert secret["secret_key"] not in str(refusal.value)
    another = await restarts.next_token(token, **SECRET_KEY)
    assert header_of(another) == header_of(token)


@on_sqlite
async def test_a_program_with_the_shared_secret_can_verify_an_hs256_token(
    restarts: Restarts,
) -> None:
    token = await restarts.first_token(**HS256)
    # This kid, or else an upgrade would invalidate every token.
    assert header_of(token) == {"alg": "HS256", "typ": "at+jwt", "kid": "34cb7a328a29aa10"}
    signed, _, signature = token.rpartition(".")
    mac = hmac.digest(HS256["hs256_secret"].encode(), signed.encode(), hashlib.sha256)
    assert base64.urlsafe_b64encode(mac).rstrip(b"=").decode() == signature
    assert header_of(await restarts.next_token(token, **HS256)) == header_of(token)
    assert await restarts.stored() == []


@on_sqlite
async def test_the_hs256_secret_is_replaced_while_both_are_valid(
    restarts: Restarts, clock: Clock
) -> None:
    """Of two workers, one is always a step ahead."""
    old, new = HS256["hs256_secret"], "what Arthur and Merlin alone know now"

    def settings(*secrets: str) -> Settings:
        changes = {**HS256, "hs256_secret": ",".join(secrets)}
        return make_settings(restarts.database_url, **changes)

    tokens = [await restarts.first_token(**HS256)]
    for here, there in (
        (settings(old), settings(old, new)),
        (settings(old, new), settings(new, old)),
    ):
        async with started_client(here, clock) as one, started_client(there, clock) as other:
            tokens += [await log_in(client, LANCELOT) for client in (one, other)]
            for client in (one, other):
                for token in tokens:
                    assert await token_is_valid(client, token)
    by_old, by_new = tokens[0], tokens[-1]
    assert [header_of(token)["kid"] for token in tokens[1:]] == [
        *[header_of(by_old)["kid"]] * 3,
        header_of(by_new)["kid"],
    ]
    assert header_of(by_new)["kid"] != header_of(by_old)["kid"]
    async with started_client(settings(new), clock) as client:
        assert await token_is_valid(client, by_new)
        assert not await token_is_valid(client, by_old)


@on_postgresql
async def test_changing_the_algorithm_and_back_invalidates_no_token(
    restarts: Restarts, clock: Clock, subtests: pytest.Subtests
) -> None:
    """Nor does the encryption of the keys afterwards, each by itself."""
    tokens = [await restarts.first_token(**ES256)]
    tokens.append(await restarts.next_token(*tokens, **RS256))
    tokens.append(await restarts.next_token(*tokens, **ES256))
    algorithms = ["ES256", "RS256", "ES256"]
    assert [header_of(token)["alg"] for token in tokens] == algorithms
    stored = [await restarts.stored()]
    for _ in range(2):
        await restarts.next_token(*tokens, **ES256, **SECRET_KEY)
        stored.append(await restarts.stored())
    for keys, is_plain in zip(stored, (True, False, False), strict=True):
        assert [(key.algorithm, key.kid) for key in keys] == [
            (name, header_of(token)["kid"]) for name, token in zip(algorithms, tokens, strict=True)
        ]
        assert len({key.private_key for key in keys}) == 3
        assert ["BEGIN" in key.private_key for key in keys] == [is_plain] * 3
    with subtests.test("the RSA key has 3072 bits in the database and in the key set"):
        settings = make_settings(restarts.database_url, **SECRET_KEY)
        async with started_client(settings, clock) as client:
            published = (await client.get("/.well-known/jwks.json")).json()["keys"]
        (shown,) = (key for key in published if key["kty"] == "RSA")
        pem = Encryptor(settings, "signing keys").decrypt(stored[-1][1].private_key)
        private = load_pem_private_key(pem.encode(), password=None)
        assert isinstance(private, RSAPrivateKey)
        modulus = int.from_bytes(base64.urlsafe_b64decode(shown["n"] + "=="), "big")
        assert (private.key_size, modulus.bit_length()) == (3072, 3072)
        assert private.public_key().public_numbers().n == modulus


async def test_one_of_several_simultaneous_starts_creates_the_key(
    restarts: Restarts, clock: Clock
) -> None:
    settings = make_settings(restarts.database_url, **SECRET_KEY)

    async def start() -> Keyring:
        database = Database(settings)
        async with database.session() as session:
            keyring = await KeyStore(settings).load(RequestContext(session, clock()))
        await database.close()
        return keyring

    keyrings = await asyncio.gather(*(start() for _ in range(4)))
    (key,) = await restarts.stored()
    assert {keyring.current(clock()).kid for keyring in keyrings} == {key.kid}


@on_sqlite
async def test_the_backend_that_signs_is_cryptography(app: FastAPI) -> None:
    """Not ecdsa, whose signing leaks the key through its timing (CVE-2024-23342)."""
    current = app.state.tokens.keyring.keys[-1]
    for key in (current.private, current.public):
        assert type(key).__module__ == "jose.backends.cryptography_backend"
    assert "ecdsa" not in sys.modules
