"""Encrypts the secrets of second factors with SECRET_KEY, if it is set."""

from sqlalchemy import func, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from app.credentials.second_factors.models import SecondFactor
from app.database.engine import begin_write
from app.security.encryption import ENCRYPTED_PREFIX, Encryptor
from app.settings import Settings


def encryptor_for(settings: Settings) -> Encryptor:
    return Encryptor(settings, "second factors")


async def encrypt_existing(session: AsyncSession, settings: Settings) -> None:
    """Encrypt secrets that were stored before SECRET_KEY was set.

    Raises DecryptionError if they were encrypted with another SECRET_KEY.
    """
    encryptor = encryptor_for(settings)
    is_encrypted = func.substr(SecondFactor.secret, 1, len(ENCRYPTED_PREFIX)) == ENCRYPTED_PREFIX
    encrypted = select(SecondFactor.secret).where(is_encrypted).limit(1)
    # The first and the last one: after a rotation of SECRET_KEY that was interrupted, only the
    # first ones are encrypted with the new value.
    for order in (SecondFactor.user_id, SecondFactor.user_id.desc()):
        if found := await session.scalar(encrypted.order_by(order)):
            encryptor.decrypt(found)
    if encryptor.is_enabled:
        for secret in (
            await session.scalars(select(SecondFactor.secret).where(~is_encrypted))
        ).all():
            await begin_write(session)
            await session.execute(
                update(SecondFactor)
                .where(SecondFactor.secret == secret)
                .values(secret=encryptor.encrypt(secret))
            )
    await session.commit()
