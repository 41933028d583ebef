"""Signing keys: made on first start, kept in the database, encrypted when SECRET_KEY is set.

A key is published before it signs, and goes on verifying until its last token has expired. Key
objects are built once: parsing PEM costs a hundred times what a verification does.
"""

import logging
import secrets
from collections.abc import Sequence
from datetime import datetime, timedelta
from itertools import pairwise

from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from jose import jwk
from sqlalchemy import delete, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession

from app.database.engine import begin_write
from app.errors import StartupError
from app.events import Events
from app.security.encryption import Vault
from app.settings import Settings
from app.tokens.signing_keys.keys import CLOCK_SKEW, Keyring, SigningKey, _shared_secret
from app.tokens.signing_keys.models import StoredKey

_log = logging.getLogger("hourpass.keys")


class KeyNotFoundError(StartupError):
    """No key has that kid, or the keys are not the service's to change."""


class KeyStore:
    """The keys in the database, as one session sees them."""

    def __init__(self, session: AsyncSession, settings: Settings) -> None:
        self._session = session
        self._settings = settings
        self._vault = Vault(settings, "signing keys")

    async def load(self, now: datetime) -> Keyring:
        """The keys of now, having made one if there is none for the configured algorithm.

        Raises KeyUnusableError.
        """
        if self._settings.hs256_secret is not None and self._settings.signing_algorithm == "HS256":
            return Keyring([_shared_secret(self._settings.hs256_secret.get_secret_value())])
        stored = await self._stored()
        for key in stored:
            self._vault.unlock(key.private_key)  # before one is added under a wrong SECRET_KEY
        while not stored or stored[-1].algorithm != self._settings.signing_algorithm:
            await self._make(stored, created_at=now, activates_at=now)
            stored = await self._stored()
        await self._encrypt_plain(stored)
        return await self.read(now)

    async def read(self, now: datetime, known: Keyring | None = None) -> Keyring:
        """The keys of now, as they are; those already `known` are not built again.

        Raises KeyUnusableError.
        """
        if known and self._settings.signing_algorithm == "HS256":
            return known
        stored = await self._stored()
        spent = {key.kid for key in self._spent(stored, now)}
        built = {key.kid: key for key in known.keys} if known else {}
        current = [key for key in stored if key.kid not in spent]
        if known and [key.kid for key in current] == list(built):
            return known
        return Keyring([built.get(key.kid) or self._build(key) for key in current])

    async def rotate(self, now: datetime, events: Events) -> str:
        """Make the next key. It is published now and signs once every cache can know it.

        Returns its kid. While a new key still waits for its turn, that one stays the next.
        Raises KeyNotFoundError with HS256, whose secret is the operator's to change.
        """
        if self._settings.signing_algorithm == "HS256":
            raise KeyNotFoundError("With HS256 the key is HS256_SECRET. Change that instead.")
        stored = await self._stored()
        if not stored or stored[-1].activates_at <= now:
            lead = timedelta(seconds=self._settings.key_announce_seconds)
            await self._make(stored, created_at=now, activates_at=now + lead, events=events)
            stored = await self._stored()
        return stored[-1].kid

    async def rotate_if_due(self, now: datetime, events: Events) -> None:
        if self._settings.signing_algorithm == "HS256" or not self._settings.key_rotation_days:
            return
        age = timedelta(days=self._settings.key_rotation_days)
        stored = await self._stored()
        if stored and stored[-1].created_at + age <= now:
            await self.rotate(now, events)

    async def replace(self, kid: str, now: datetime) -> None:
        """Take away a key, and see to it that another one signs. Part of its caller's transaction.

        Raises KeyNotFoundError.
        """
        removed = await self._session.scalar(
            delete(StoredKey).where(StoredKey.kid == kid).returning(StoredKey.generation)
        )
        if removed is None:
            raise KeyNotFoundError(f"There is no key {kid}.")
        newest = await self._session.scalar(
            select(StoredKey).order_by(StoredKey.generation.desc()).limit(1)
        )
        if newest is None or newest.generation < removed:
            # The removed key signed, or was about to; what verifies is refused until then.
            algorithm = self._settings.signing_algorithm
            self._session.add(self._generate(removed + 1, algorithm, now, now))

    async def replace_all(self, now: datetime) -> list[str]:
        """As replace(), for every key. Returns their kids, the oldest first."""
        by_age = select(StoredKey.kid).order_by(StoredKey.generation)
        kids = list(await self._session.scalars(by_age))
        for kid in kids:
            await self.replace(kid, now)
        return kids

    async def purge(self, now: datetime) -> None:
        """Delete keys whose last token has expired."""
        for key in self._spent(await self._stored(), now):
            await begin_write(self._session)
            await self._session.execute(delete(StoredKey).where(StoredKey.kid == key.kid))
            await self._session.commit()
            _log.info("Removed a spent signing key", extra={"kid": key.kid})

    def _spent(self, stored: Sequence[StoredKey], now: datetime) -> list[StoredKey]:
        """Keys whose successor has signed for longer than a token lives."""
        lifetime = timedelta(minutes=self._settings.token_minutes)
        return [
            key
            for key, successor in pairwise(stored)
            if successor.activates_at + lifetime + CLOCK_SKEW <= now
        ]

    async def _stored(self) -> Sequence[StoredKey]:
        keys = (await self._session.scalars(select(StoredKey).order_by(StoredKey.generation))).all()
        await self._session.commit()
        return keys

    async def _make(
        self,
        stored: Sequence[StoredKey],
        created_at: datetime,
        activates_at: datetime,
        events: Events | None = None,
    ) -> None:
        generation = stored[-1].generation + 1 if stored else 1
        algorithm = self._settings.signing_algorithm
        key = self._generate(generation, algorithm, created_at, activates_at)
        await begin_write(self._session)
        self._session.add(key)
        try:
            await self._session.flush()
            if events:
                await events.announce("key.rotate", None, created_at, kid=key.kid)
            await self._session.commit()
            _log.info("Made a signing key", extra={"algorithm": algorithm})
        except IntegrityError:  # another worker was first; its key is the one
            await self._session.rollback()

    def _generate(
        self, generation: int, algorithm: str, created_at: datetime, activates_at: datetime
    ) -> StoredKey:
        private = (
            ec.generate_private_key(ec.SECP256R1())
            if algorithm == "ES256"
            else rsa.generate_private_key(public_exponent=65537, key_size=3072)
        )
        pem = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
        return StoredKey(
            generation=generation,
            kid=secrets.token_hex(8),
            algorithm=algorithm,
            private_key=self._vault.lock(pem),
            created_at=created_at,
            activates_at=activates_at,
        )

    async def _encrypt_plain(self, stored: Sequence[StoredKey]) -> None:
        """What was made before SECRET_KEY was set."""
        for key in stored:
            if self._vault.should_lock(key.private_key):
                await begin_write(self._session)
                await self._session.execute(
                    update(StoredKey)
                    .where(StoredKey.kid == key.kid)
                    .values(private_key=self._vault.lock(key.private_key))
                )
                await self._session.commit()

    def _build(self, stored: StoredKey) -> SigningKey:
        private = jwk.construct(self._vault.unlock(stored.private_key), stored.algorithm)
        return SigningKey(
            stored.kid, stored.algorithm, private, private.public_key(), stored.activates_at
        )
