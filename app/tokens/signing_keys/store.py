"""Stores signing keys, encrypted if SECRET_KEY is set.

The first start generates a key. A key is published before it signs, and verifies until its last
token has expired.
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

from app.context import RequestContext
from app.database.engine import begin_write
from app.errors import StartupError
from app.events import Events
from app.security.encryption import Encryptor
from app.settings import Settings
from app.tokens.signing_keys.keys import CLOCK_SKEW, Keyring, SigningKey, shared_secret_key
from app.tokens.signing_keys.models import StoredKey

_log = logging.getLogger("hourpass.keys")


class KeyNotFoundError(StartupError):
    """No key has that kid, or the key is HS256_SECRET, which only the operator can change."""


class KeyStore:
    """The keys in the database."""

    def __init__(self, settings: Settings, events: Events | None = None) -> None:
        self._settings = settings
        self._events = events or Events()
        self._encryptor = Encryptor(settings, "signing keys")

    async def load(self, context: RequestContext) -> Keyring:
        """Returns the current keys. Generates one if there is none for the configured algorithm.

        Raises DecryptionError.
        """
        if self._settings.signing_algorithm == "HS256":
            # The first one signs, and the last key of a keyring does.
            values = reversed(self._settings.hs256_secrets)
            return Keyring([shared_secret_key(value.get_secret_value()) for value in values])
        stored = await self._load_stored(context)
        for key in stored:
            self._encryptor.decrypt(key.private_key)  # before one is added with a wrong SECRET_KEY
        while not stored or stored[-1].algorithm != self._settings.signing_algorithm:
            await self._create(context, stored, activates_at=context.now)
            stored = await self._load_stored(context)
        await self._encrypt_existing(context, stored)
        return await self.read(context)

    async def read(self, context: RequestContext, known: Keyring | None = None) -> Keyring:
        """Returns the current keys. Reuses the objects of `known` keys.

        Raises DecryptionError.
        """
        if known and self._settings.signing_algorithm == "HS256":
            return known
        stored = await self._load_stored(context)
        retired = {key.kid for key in self._retired(stored, context.now)}
        built = {key.kid: key for key in known.keys} if known else {}
        current = [key for key in stored if key.kid not in retired]
        if known and [key.kid for key in current] == list(built):
            return known
        return Keyring([built.get(key.kid) or self._build(key) for key in current])

    async def rotate(self, context: RequestContext) -> str:
        """Generate the next key. It is published at once, and signs after KEY_ANNOUNCE_SECONDS,
        when all caches have it.

        Returns its kid. If there already is a key that does not sign yet, returns that one's.
        Raises KeyNotFoundError with HS256.
        """
        if self._settings.signing_algorithm == "HS256":
            raise KeyNotFoundError("With HS256 the key is HS256_SECRET. Change that instead.")
        stored = await self._load_stored(context)
        if not stored or stored[-1].activates_at <= context.now:
            lead = timedelta(seconds=self._settings.key_announce_seconds)
            activates_at = context.now + lead
            await self._create(context, stored, activates_at, is_rotation=True)
            stored = await self._load_stored(context)
        return stored[-1].kid

    async def rotate_if_due(self, context: RequestContext) -> None:
        if self._settings.signing_algorithm == "HS256" or not self._settings.key_rotation_days:
            return
        age = timedelta(days=self._settings.key_rotation_days)
        stored = await self._load_stored(context)
        if stored and stored[-1].created_at + age <= context.now:
            await self.rotate(context)

    async def revoke(self, context: RequestContext, kid: str) -> None:
        """Delete a key, and replace it if it was signing. If it was only announced, the current key
        goes on signing. Part of the caller's transaction.

        Raises KeyNotFoundError.
        """
        removed = (
            await context.session.execute(
                delete(StoredKey)
                .where(StoredKey.kid == kid)
                .returning(StoredKey.generation, StoredKey.activates_at)
            )
        ).one_or_none()
        if removed is None:
            raise KeyNotFoundError(f"There is no key {kid}.")
        generation, activates_at = removed
        newest = await context.session.scalar(
            select(StoredKey).order_by(StoredKey.generation.desc()).limit(1)
        )
        was_signing = activates_at <= context.now
        if newest is None or (newest.generation < generation and was_signing):
            # The new key signs at once. Caches that do not have it yet reject its tokens.
            algorithm = self._settings.signing_algorithm
            context.session.add(self._generate(generation + 1, algorithm, context.now, context.now))

    async def revoke_all(self, context: RequestContext) -> list[str]:
        """Revoke every key. Returns their kids, oldest first."""
        by_age = select(StoredKey.kid).order_by(StoredKey.generation)
        kids = list(await context.session.scalars(by_age))
        for kid in kids:
            await self.revoke(context, kid)
        return kids

    async def delete_retired(self, context: RequestContext) -> None:
        """Delete keys whose last token has expired."""
        for key in self._retired(await self._load_stored(context), context.now):
            await begin_write(context.session)
            await context.session.execute(delete(StoredKey).where(StoredKey.kid == key.kid))
            await context.session.commit()
            _log.info("Deleted a retired signing key", extra={"kid": key.kid})

    def _retired(self, stored: Sequence[StoredKey], now: datetime) -> list[StoredKey]:
        """Keys whose successor has been signing for longer than a token is valid."""
        lifetime = timedelta(minutes=self._settings.token_minutes)
        return [
            key
            for key, successor in pairwise(stored)
            if successor.activates_at + lifetime + CLOCK_SKEW <= now
        ]

    async def _load_stored(self, context: RequestContext) -> Sequence[StoredKey]:
        keys = (
            await context.session.scalars(select(StoredKey).order_by(StoredKey.generation))
        ).all()
        await context.session.commit()
        return keys

    async def _create(
        self,
        context: RequestContext,
        stored: Sequence[StoredKey],
        activates_at: datetime,
        *,
        is_rotation: bool = False,
    ) -> None:
        generation = stored[-1].generation + 1 if stored else 1
        algorithm = self._settings.signing_algorithm
        key = self._generate(generation, algorithm, context.now, activates_at)
        await begin_write(context.session)
        context.session.add(key)
        try:
            await context.session.flush()
            if is_rotation:
                await self._events.publish(context, "key.rotate", None, kid=key.kid)
            await context.session.commit()
            _log.info("Generated a signing key", extra={"algorithm": algorithm})
        except IntegrityError:  # another worker was faster, so its key is used
            await context.session.rollback()

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
            private_key=self._encryptor.encrypt(pem),
            created_at=created_at,
            activates_at=activates_at,
        )

    async def _encrypt_existing(self, context: RequestContext, stored: Sequence[StoredKey]) -> None:
        """Encrypt keys that were stored before SECRET_KEY was set."""
        for key in stored:
            if self._encryptor.needs_encryption(key.private_key):
                await begin_write(context.session)
                await context.session.execute(
                    update(StoredKey)
                    .where(StoredKey.kid == key.kid)
                    .values(private_key=self._encryptor.encrypt(key.private_key))
                )
                await context.session.commit()

    def _build(self, stored: StoredKey) -> SigningKey:
        private = jwk.construct(self._encryptor.decrypt(stored.private_key), stored.algorithm)
        return SigningKey(
            stored.kid, stored.algorithm, private, private.public_key(), stored.activates_at
        )
