"""Signing keys: made once, shared by all, unreadable at rest; what a start without them says."""

import asyncio
import base64
import hashlib
import hmac
import json
import subprocess
import sys

import pytest
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from fastapi import FastAPI
from sqlalchemy import select

from app.context import RequestContext
from app.database.engine import Database
from app.security.encryption import DecryptionError, Encryptor
from app.settings import ROOT, Settings
from app.tokens.signing_keys.keys import Keyring
from app.tokens.signing_keys.models import StoredKey
from app.tokens.signing_keys.store import KeyStore
from tests.support.apps import started_client
from tests.support.markers import on_sqlite
from tests.support.settings import Clock, make_settings
from tests.support.users import LANCELOT, log_in, register, token_holds

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
        """One more token, after a look whether the earlier ones still hold."""
        async with started_client(
            make_settings(self.database_url, **changes), self.clock
        ) as client:
            for token in earlier:
                assert await token_holds(client, token)
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


def header_of(token: str) -> dict[str, str]:
    members: dict[str, str] = json.loads(base64.urlsafe_b64decode(token.partition(".")[0] + "=="))
    return members


@pytest.mark.parametrize(
    ("first", "second"),
    [
        pytest.param({}, {}, id="in the clear"),
        pytest.param(SECRET_KEY, SECRET_KEY, id="encrypted"),
        pytest.param({}, SECRET_KEY, id="encrypted from the second start on"),
    ],
)
async def test_the_key_of_the_first_start_serves_the_second(
    restarts: Restarts, first: dict[str, str], second: dict[str, str]
) -> None:
    token = await restarts.first_token(**first)
    for settings in (first, second):
        another = await restarts.next_token(token, **settings)
        assert header_of(another) == header_of(token)
        (key,) = await restarts.stored()
        assert (key.kid, key.algorithm) == (header_of(token)["kid"], "ES256")
        assert ("BEGIN" in key.private_key) == (settings == {})


@pytest.mark.parametrize("change", [{}, OTHER_SECRET_KEY], ids=["no SECRET_KEY", "a wrong one"])
@pytest.mark.parametrize("algorithm", [ES256, RS256], ids=["ES256", "RS256 from now on"])
async def test_a_key_that_cannot_be_decrypted_is_an_error_in_the_settings_and_stays_unchanged(
    restarts: Restarts, change: dict[str, str], algorithm: dict[str, str]
) -> None:
    token = await restarts.first_token(**SECRET_KEY)
    with pytest.raises(DecryptionError, match="SECRET_KEY") as refusal:
        await restarts.next_token(**change, **algorithm)
    for secret in (SECRET_KEY, OTHER_SECRET_KEY):
        assert secret["secret_key"] not in str(refusal.value)
    await restarts.next_token(token, **SECRET_KEY)


@pytest.mark.parametrize(
    ("settings", "algorithm"),
    [(ES256, "ES256"), (RS256, "RS256"), (HS256, "HS256"), (UNUSED_SECRET, "ES256")],
    ids=["ES256", "RS256", "HS256", "ES256 beside an unused HS256_SECRET"],
)
async def test_a_token_names_its_key_and_algorithm_and_survives_a_restart(
    restarts: Restarts, settings: dict[str, str], algorithm: str
) -> None:
    token = await restarts.first_token(**settings)
    header = header_of(token)
    assert header == {"alg": algorithm, "typ": "at+jwt", "kid": header["kid"]}
    assert header_of(await restarts.next_token(token, **settings)) == header


async def test_an_rsa_key_has_3072_bits_in_the_database_and_in_the_key_set(
    restarts: Restarts, clock: Clock
) -> None:
    settings = make_settings(restarts.database_url, **RS256, **SECRET_KEY)
    async with started_client(settings, clock) as client:
        (shown,) = (await client.get("/.well-known/jwks.json")).json()["keys"]
    (stored,) = await restarts.stored()
    pem = Encryptor(settings, "signing keys").decrypt(stored.private_key)
    private = load_pem_private_key(pem.encode(), password=None)
    assert isinstance(private, RSAPrivateKey)
    modulus = int.from_bytes(base64.urlsafe_b64decode(shown["n"] + "=="), "big")
    assert (private.key_size, modulus.bit_length()) == (3072, 3072)
    assert private.public_key().public_numbers().n == modulus


async def test_a_program_with_the_shared_secret_can_verify_an_hs256_token(
    restarts: Restarts,
) -> None:
    signed, _, signature = (await restarts.first_token(**HS256)).rpartition(".")
    mac = hmac.digest(HS256["hs256_secret"].encode(), signed.encode(), hashlib.sha256)
    assert base64.urlsafe_b64encode(mac).rstrip(b"=").decode() == signature
    assert await restarts.stored() == []


async def test_the_kid_of_a_shared_secret_stays_the_same_in_later_versions(
    restarts: Restarts,
) -> None:
    """Else an upgrade would end every token."""
    assert header_of(await restarts.first_token(**HS256))["kid"] == "34cb7a328a29aa10"


async def test_another_hs256_secret_invalidates_all_tokens(
    restarts: Restarts, clock: Clock
) -> None:
    token = await restarts.first_token(**HS256)
    changed = {**HS256, "hs256_secret": HS256["hs256_secret"].upper()}
    async with started_client(make_settings(restarts.database_url, **changed), clock) as client:
        assert not await token_holds(client, token)


async def test_the_hs256_secret_is_replaced_while_both_are_valid(
    restarts: Restarts, clock: Clock
) -> None:
    """Two workers, one of which is always a step ahead."""
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
                    assert await token_holds(client, token)
    by_old, by_new = tokens[0], tokens[-1]
    assert [header_of(token)["kid"] for token in tokens[1:]] == [
        *[header_of(by_old)["kid"]] * 3,
        header_of(by_new)["kid"],
    ]
    assert header_of(by_new)["kid"] != header_of(by_old)["kid"]
    async with started_client(settings(new), clock) as client:
        assert await token_holds(client, by_new)
        assert not await token_holds(client, by_old)


async def test_changing_the_algorithm_and_back_invalidates_no_token(restarts: Restarts) -> None:
    first = await restarts.first_token(**ES256)
    second = await restarts.next_token(first, **RS256)
    third = await restarts.next_token(first, second, **ES256)
    assert [key.algorithm for key in await restarts.stored()] == ["ES256", "RS256", "ES256"]
    assert [key.kid for key in await restarts.stored()] == [
        header_of(token)["kid"] for token in (first, second, third)
    ]


async def test_keys_that_were_stored_in_the_clear_are_encrypted_each_by_itself(
    restarts: Restarts,
) -> None:
    first = await restarts.first_token(**ES256)
    second = await restarts.next_token(first, **RS256)
    for _ in range(2):
        await restarts.next_token(first, second, **RS256, **SECRET_KEY)
        keys = {key.private_key for key in await restarts.stored()}
        assert len(keys) == 2
        assert not any("BEGIN" in key for key in keys)


async def test_one_of_eight_simultaneous_starts_creates_the_key(
    restarts: Restarts, clock: Clock
) -> None:
    settings = make_settings(restarts.database_url, **SECRET_KEY)

    async def start() -> Keyring:
        database = Database(settings)
        async with database.session() as session:
            keyring = await KeyStore(settings).load(RequestContext(session, clock()))
        await database.close()
        return keyring

    keyrings = await asyncio.gather(*(start() for _ in range(8)))
    (key,) = await restarts.stored()
    assert {keyring.current(clock()).kid for keyring in keyrings} == {key.kid}


@on_sqlite
async def test_the_backend_that_signs_is_cryptography(app: FastAPI) -> None:
    """Not ecdsa, whose signing leaks the key through its timing (CVE-2024-23342)."""
    current = app.state.tokens.keyring.keys[-1]
    for key in (current.private, current.public):
        assert type(key).__module__ == "jose.backends.cryptography_backend"


def test_the_vulnerable_library_is_not_imported() -> None:
    code = "import sys, app.tokens.signing_keys.store; sys.exit('ecdsa' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
