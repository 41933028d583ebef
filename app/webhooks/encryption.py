"""Encrypts the secrets of endpoints with SECRET_KEY, if it is set."""

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from app.database.engine import begin_write
from app.security.encryption import Encryptor
from app.settings import Settings
from app.webhooks.models import WebhookEndpoint


def encryptor_for(settings: Settings) -> Encryptor:
    return Encryptor(settings, "webhook secrets")


async def encrypt_existing(session: AsyncSession, settings: Settings) -> None:
    """Encrypt secrets that were stored before SECRET_KEY was set.

    Raises DecryptionError if they were encrypted with another SECRET_KEY.
    """
    encryptor = encryptor_for(settings)
    stored = select(WebhookEndpoint.secret, WebhookEndpoint.previous_secret)
    found = [secret for row in await session.execute(stored) for secret in row if secret]
    for secret in found:
        encryptor.decrypt(secret)
    if any(map(encryptor.needs_encryption, found)):
        await begin_write(session)
        for endpoint in await session.scalars(select(WebhookEndpoint).with_for_update()):
            endpoint.secret = encryptor.encrypt(encryptor.decrypt(endpoint.secret))
            if endpoint.previous_secret:
                previous = encryptor.decrypt(endpoint.previous_secret)
                endpoint.previous_secret = encryptor.encrypt(previous)
    await session.commit()
