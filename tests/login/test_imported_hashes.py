"""Password hashes of other systems can be verified, or the audit log says why not."""

import asyncio
import base64
import hashlib
import json
import os
import threading
import unicodedata
from collections.abc import Iterator
from datetime import timedelta

import bcrypt
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CTR
from fastapi import FastAPI
from httpx import AsyncClient, Response
from passlib.hash import (
    argon2,
    bcrypt_sha256,
    django_pbkdf2_sha1,
    django_pbkdf2_sha256,
    pbkdf2_sha1,
    pbkdf2_sha256,
    pbkdf2_sha512,
    scrypt,
)
from sqlalchemy import select, update

from app.audit.models import Entry
from app.database.engine import begin_write
from app.security import hash_costs, imported_hashes
from app.security.passwords import HashingOverloadedError, Passwords
from app.users.models import User
from tests.support.markers import on_sqlite
from tests.support.settings import Clock, make_settings
from tests.support.users import LANCELOT, assert_problem, log_in, register

LONG = "a password of more than seventy-two bytes, which is all that bcrypt can read of it"
# What NFKC changes: an ellipsis, a half, a square, a no-break space, a decomposed accent.
TYPED = ["wait…", "½ a grail", "x²", "no\u00a0break", "cafe\u0301", "ﬁne"]


def bcrypt_of(password: str | bytes, ident: str = "$2b$") -> str:
    secret = password.encode() if isinstance(password, str) else password
    return ident + bcrypt.hashpw(secret[:72], bcrypt.gensalt(4)).decode()[4:]


def django_bcrypt_sha256(password: str) -> str:
    """As BCryptSHA256PasswordHasher makes it."""
    return "bcrypt_sha256$" + bcrypt_of(hashlib.sha256(password.encode()).hexdigest())


def django_scrypt(password: str, n: int = 16) -> str:
    """As ScryptPasswordHasher makes it, but for the work factor."""
    digest = hashlib.scrypt(password.encode(), salt=b"camelot", n=n, r=8, p=1, dklen=64)
    return f"scrypt${n}$camelot$8$1${base64.b64encode(digest).decode()}"


def long_pbkdf2(password: str) -> str:
    """With a digest of 64 bytes, as Keycloak before version 24 made it."""
    digest = hashlib.pbkdf2_hmac("sha256", password.encode(), b"camelot", 1_000, 64)
    return imported_hashes.pbkdf2("sha256", 1_000, b"camelot", digest)


def firebase(password: str) -> str:
    """As Firebase documents it, but for the memory."""
    key = hashlib.scrypt(password.encode(), salt=b"camelot|", n=16, r=8, p=1, dklen=64)[:32]
    encryptor = Cipher(AES(key), CTR(bytes(16))).encryptor()
    signer_key = bytes(range(64))
    made = encryptor.update(signer_key) + encryptor.finalize()
    storable = imported_hashes.firebase_scrypt(made, b"camelot", signer_key, b"|", 8, 4)
    assert storable
    return storable


KINDS = {
    "bcrypt": bcrypt_of,
    "bcrypt of PHP": lambda password: bcrypt_of(password, "$2y$"),
    "old bcrypt": lambda password: bcrypt_of(password, "$2a$"),
    "Django's bcrypt": lambda password: "bcrypt$" + bcrypt_of(password),
    "Django's bcrypt_sha256": django_bcrypt_sha256,
    "Django's scrypt": django_scrypt,
    "passlib's bcrypt_sha256": bcrypt_sha256.using(rounds=4).hash,
    "passlib's scrypt": scrypt.using(rounds=4).hash,
    "PBKDF2": pbkdf2_sha256.using(rounds=1_000).hash,
    "PBKDF2 with SHA-1": pbkdf2_sha1.using(rounds=1_000).hash,
    "PBKDF2 with SHA-512": pbkdf2_sha512.using(rounds=1_000).hash,
    "Keycloak's PBKDF2": long_pbkdf2,
    "Django's PBKDF2": django_pbkdf2_sha256.using(rounds=1_000).hash,
    "Django's PBKDF2 with SHA-1": django_pbkdf2_sha1.using(rounds=1_000).hash,
    "Firebase's scrypt": firebase,
    "Argon2id": lambda password: argon2.using(memory_cost=64, time_cost=1).hash(password),
    "Argon2i": lambda password: argon2.using(type="I", memory_cost=64).hash(password),
    "Argon2d": lambda password: argon2.using(type="D", memory_cost=64).hash(password),
}


@pytest.fixture(scope="module")
def passwords() -> Iterator[Passwords]:
    passwords = Passwords(make_settings("sqlite:///never-opened.db"))
    yield passwords
    passwords.close()


@pytest.mark.parametrize("kind", KINDS)
async def test_a_hash_of_another_system_verifies(passwords: Passwords, kind: str) -> None:
    for password in ("excalibur", "zoë's", LONG):
        made = KINDS[kind](password)
        assert passwords.can_verify(made)
        assert await passwords.verify(password, made)
        assert not await passwords.verify(f"X{password}", made)
        assert passwords.needs_rehash(made)


@pytest.mark.parametrize("kind", KINDS)
async def test_a_password_that_nfkc_changes_verifies_as_typed_and_as_normalized(
    passwords: Passwords, kind: str
) -> None:
    for password in TYPED if kind == "bcrypt" else TYPED[:1]:
        assert unicodedata.normalize("NFKC", password) != password
        as_typed, normalized = (
            KINDS[kind](text) for text in (password, unicodedata.normalize("NFKC", password))
        )
        assert await passwords.verify(password, as_typed)
        assert await passwords.verify(password, normalized)
        assert not await passwords.verify(f"{password}!", as_typed)


@pytest.mark.parametrize("kind", KINDS)
def test_the_cost_of_each_kind_is_known(kind: str) -> None:
    made = KINDS[kind]("excalibur")
    cost = hash_costs.cost_of(made)
    assert cost
    assert 0 < cost.seconds() < 1
    assert 0 < cost.nominal_seconds < 1


def test_the_costs_are_those_of_the_parameters() -> None:
    for made, algorithm, units, memory in (
        ("$argon2id$v=19$m=65536,t=3,p=4$YQ$YQ", "argon2", 3 * 65536, 2**26),
        ("$2b$12$x", "bcrypt", 4096, 0),
        ("bcrypt_sha256$$2b$12$x", "bcrypt", 4096, 0),
        (f"pbkdf2_sha256$1200000$a${'A' * 43}=", "pbkdf2 sha256", 1_200_000, 0),
        (f"pbkdf2_sha1$1000$a${'A' * 27}=", "pbkdf2 sha1", 1_000, 0),
        (f"$pbkdf2-sha256$1000$YQ${'A' * 86}", "pbkdf2 sha256", 2_000, 0),
        (f"$pbkdf2$1000$YQ${'A' * 86}", "pbkdf2 sha1", 4_000, 0),
        (f"$pbkdf2-sha512$1000$YQ${'A' * 86}", "pbkdf2 sha512", 1_000, 0),
        ("scrypt$16384$a$8$5$YQ==", "scrypt", 16384 * 40, 1024 * (16384 + 5)),
        ("$firebase-scrypt$ln=14,r=8$YQ$YQ", "scrypt", 16384 * 8, 1024 * (16384 + 1)),
    ):
        assert hash_costs.cost_of(made) == (algorithm, units, memory)


@pytest.mark.parametrize(
    ("queue", "accepted"),
    [
        pytest.param(20, 2, id="room for two"),
        pytest.param(10, 1, id="room for one"),
        pytest.param(3, 1, id="an idle worker has room for each"),
    ],
)
async def test_a_costly_hash_takes_several_places_in_the_queue(
    monkeypatch: pytest.MonkeyPatch, queue: int, accepted: int
) -> None:
    hashing = {"argon2_memory_kib": 19456, "argon2_passes": 2, "hashing_threads": 1}
    settings = make_settings("sqlite:///never-opened.db", **hashing, hashing_queue=queue)
    costly = "pbkdf2_sha256$1000000$camelot$" + "A" * 43 + "="  # 0.23 seconds, ours 0.023
    passwords, gate = Passwords(settings), threading.Event()
    monkeypatch.setattr(passwords, "_verify_spellings", lambda *_: gate.wait())
    waiting = [asyncio.create_task(passwords.verify("wrong", costly)) for _ in range(3)]
    await asyncio.sleep(0)
    refused = [task for task in waiting if task.done()]
    gate.set()
    await asyncio.gather(*waiting, return_exceptions=True)
    passwords.close()
    assert len(refused) == 3 - accepted
    for task in refused:
        assert isinstance(task.exception(), HashingOverloadedError)
    for _ in range(1 + queue):  # all places are free again
        passwords._take(1)
    with pytest.raises(HashingOverloadedError):
        passwords._take(1)


async def test_the_signer_key_of_firebase_cannot_be_found_in_the_stored_hash() -> None:
    """It is the key of the whole Firebase project."""
    key = os.urandom(64)
    value, salt = os.urandom(64), os.urandom(8)
    made = imported_hashes.firebase_scrypt(value, salt, key, b"|", 8, 14)
    assert made
    decoded = base64.b64decode(made.rpartition("$")[2] + "=", b"./", validate=True)
    stream = bytes(a ^ b for a, b in zip(value, key, strict=True))
    assert decoded == hashlib.sha256(stream[:32]).digest()
    assert imported_hashes.firebase_scrypt(value[:31], salt, key, b"|", 8, 14) is None


async def test_new_hashes_are_of_the_normalized_password(passwords: Passwords) -> None:
    made = await passwords.hash("wait…")
    assert await passwords.verify("wait...", made)
    assert await passwords.verify("wait…", made)


async def test_a_wrong_password_takes_as_long_for_an_unknown_user_as_for_a_known_one(
    passwords: Passwords, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two hashes if NFKC changes the password, otherwise one."""
    hashed: list[str] = []
    verify = passwords._verify_hash

    def counting(password: str, password_hash: str) -> bool:
        hashed.append(password)
        return verify(password, password_hash)

    ours = await passwords.hash("excalibur")
    monkeypatch.setattr(passwords, "_verify_hash", counting)
    for password, number in (("wrong", 1), ("wrong…", 2)):
        for password_hash in (None, ours):
            hashed.clear()
            assert not await passwords.verify(password, password_hash)
            assert len(hashed) == number


@on_sqlite
async def test_bcrypt_compares_72_bytes_and_the_login_upgrades_the_hash(
    client: AsyncClient, app: FastAPI
) -> None:
    user_id = await register(client, LANCELOT)
    await store(app, user_id, bcrypt_of(LONG))
    assert_problem(await attempt(client, LONG[:71]), 401, "invalid_grant")
    await log_in(client, {**LANCELOT, "password": LONG})
    # Now all of it counts.
    assert_problem(await attempt(client, f"{LONG}!"), 401, "invalid_grant")
    await log_in(client, {**LANCELOT, "password": LONG})


async def attempt(client: AsyncClient, password: str) -> Response:
    return await client.post("/token", json={**LANCELOT, "password": password})


async def store(app: FastAPI, user_id: int, password_hash: str) -> None:
    async with app.state.database.session() as session:
        await begin_write(session)
        changed = update(User).where(User.id == user_id).values(password_hash=password_hash)
        await session.execute(changed)
        await session.commit()


UNSUPPORTED = {
    "a digest": hashlib.md5(b"excalibur", usedforsecurity=False).hexdigest(),
    "crypt": "$6$rounds=5000$camelot$abc",
    "a faulty bcrypt": bcrypt_of("excalibur", "$2x$"),
    "a damaged bcrypt": "$2b$12$tooshort",
    "a damaged scrypt": "scrypt$16384$camelot$8$1$!!",
    "scrypt of no power of two": django_scrypt("excalibur").replace("$16$", "$17$"),
    "scrypt of a gigabyte": django_scrypt("excalibur").replace("$16$", "$1048576$"),
    "a damaged Argon2": "$argon2id$v=19$m=8,t=1,p=1$damaged",
    "nothing": "",
}


@on_sqlite
async def test_the_audit_log_says_which_hash_cannot_be_verified(
    client: AsyncClient, app: FastAPI, clock: Clock, subtests: pytest.Subtests
) -> None:
    user_id = await register(client, LANCELOT)
    ours = await app.state.services.passwords.hash("excalibur")
    supported = dict.fromkeys(("!", bcrypt_of("excalibur"), ours), None)
    unsupported = dict.fromkeys(UNSUPPORTED.values(), "unsupported password hash")
    for password_hash, reason in {**supported, **unsupported}.items():
        with subtests.test(password_hash):
            clock.advance(timedelta(days=2))  # beyond the rate limits
            await store(app, user_id, password_hash)
            assert_problem(await attempt(client, "wrong"), 401, "invalid_grant")
            assert await last_details(app) == ({"reason": reason} if reason else {})


async def last_details(app: FastAPI) -> dict[str, str]:
    async with app.state.database.session() as session:
        newest_first = select(Entry.details).order_by(Entry.id.desc())
        details: dict[str, str] = json.loads(await session.scalar(newest_first.limit(1)))
        return details
