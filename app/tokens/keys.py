"""Signing keys: made on first start, kept in the database, encrypted when SECRET_KEY is set.

Key objects are built once, here: parsing PEM costs a hundred times what a verification does.
"""

import base64
import hashlib
import logging
import secrets
from dataclasses import dataclass
from datetime import datetime

from cryptography.fernet import Fernet, InvalidToken
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from jose import jwk, jws
from jose.backends.base import Key
from sqlalchemy import select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession

from app.database import begin_write
from app.errors import StartupError
from app.settings import Settings
from app.tokens.models import StoredKey

_log = logging.getLogger("hourpass.keys")


class KeyUnusableError(StartupError):
    """A stored key cannot be decrypted; the text says which setting to mend."""


@dataclass(frozen=True)
class SigningKey:
    """A key, the one algorithm it is for, and the JOSE header of every token that it signs."""

    kid: str
    algorithm: str
    private: Key
    public: Key

    def sign(self, claims: dict[str, object]) -> str:
        headers = {"kid": self.kid, "typ": "at+jwt"}  # RFC 9068, 2.1
        token: str = jws.sign(claims, self.private, headers, self.algorithm)
        return token

    def header_segment(self) -> str:
        return self.sign({}).partition(".")[0]


@dataclass(frozen=True)
class Keyring:
    """`current` signs new tokens. Any key verifies, and is found by the first segment of a token,
    which must be to the letter what the service itself would write: no other header is parsed."""

    current: SigningKey
    by_header: dict[str, SigningKey]

    @classmethod
    def of(cls, keys: list[SigningKey]) -> "Keyring":
        """The last key becomes the current one."""
        return cls(keys[-1], {key.header_segment(): key for key in keys})


async def load(session: AsyncSession, settings: Settings, now: datetime) -> Keyring:
    """Read the keys, having made one first if there is none for the configured algorithm.

    Raises KeyUnusableError.
    """
    if settings.signing_algorithm == "HS256":
        assert settings.hs256_secret is not None  # Settings refuses to be built without
        return Keyring.of([_shared_secret(settings.hs256_secret.get_secret_value())])
    vault = _Vault(settings)
    algorithm = settings.signing_algorithm
    stored = await _stored(session)
    while not any(key.algorithm == algorithm for key in stored):
        generation = stored[-1].generation + 1 if stored else 1
        session.add(_generate(generation, algorithm, vault, now))
        try:
            await session.commit()
            _log.info("Made a signing key", extra={"algorithm": algorithm})
        except IntegrityError:  # another worker was first; its key is the one
            await session.rollback()
        stored = await _stored(session)
    for key in stored:
        if vault.should_encrypt(key.private_key):
            await begin_write(session)
            await session.execute(
                update(StoredKey)
                .where(StoredKey.generation == key.generation)
                .values(private_key=vault.lock(key.private_key))
            )
            await session.commit()
    stored.sort(key=lambda key: (key.algorithm == algorithm, key.generation))
    return Keyring.of([_build(key, vault) for key in stored])


async def _stored(session: AsyncSession) -> list[StoredKey]:
    keys = list(await session.scalars(select(StoredKey).order_by(StoredKey.generation)))
    await session.commit()
    return keys


def _generate(generation: int, algorithm: str, vault: "_Vault", now: datetime) -> StoredKey:
    private = (
        ec.generate_private_key(ec.SECP256R1())
        if algorithm == "ES256"
        else rsa.generate_private_key(public_exponent=65537, key_size=3072)
    )
    pem = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    return StoredKey(
        generation=generation,
        kid=secrets.token_urlsafe(12),
        algorithm=algorithm,
        private_key=vault.lock(pem),
        created_at=now,
    )


def _build(stored: StoredKey, vault: "_Vault") -> SigningKey:
    private = jwk.construct(vault.unlock(stored.private_key), stored.algorithm)
    return SigningKey(stored.kid, stored.algorithm, private, private.public_key())


def _shared_secret(secret: str) -> SigningKey:
    key = jwk.construct(secret, "HS256")
    # The kid is published in every token, so it is derived by a slow-to-guess, one-way step.
    kid = hashlib.sha256(b"hourpass kid" + secret.encode()).hexdigest()[:16]
    return SigningKey(kid, "HS256", key, key)


class _Vault:
    """Private keys at rest: Fernet under a key derived from SECRET_KEY, or plain without one."""

    def __init__(self, settings: Settings) -> None:
        self._fernet: Fernet | None = None
        if settings.secret_key is not None:
            secret = settings.secret_key.get_secret_value().encode()
            derived = HKDF(SHA256(), 32, salt=None, info=b"hourpass signing keys").derive(secret)
            self._fernet = Fernet(base64.urlsafe_b64encode(derived))

    def lock(self, pem: str) -> str:
        return self._fernet.encrypt(pem.encode()).decode() if self._fernet else pem

    def unlock(self, stored: str) -> str:
        if _is_plain(stored):
            return stored
        if self._fernet is None:
            raise KeyUnusableError("The signing keys are encrypted. Set SECRET_KEY.")
        try:
            return self._fernet.decrypt(stored.encode()).decode()
        except InvalidToken:
            raise KeyUnusableError(
                "The signing keys were encrypted under another SECRET_KEY. Set that one."
            ) from None

    def should_encrypt(self, stored: str) -> bool:
        return self._fernet is not None and _is_plain(stored)


def _is_plain(stored: str) -> bool:
    return stored.startswith("-----BEGIN")
