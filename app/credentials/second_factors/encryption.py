"""The secrets of second factors at rest: encrypted under SECRET_KEY if there is one."""

from sqlalchemy import func, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from app.credentials.second_factors.models import SecondFactor
from app.database.engine import begin_write
from app.security.encryption import LOCKED, Vault
from app.settings import Settings


def vault_of(settings: Settings) -> Vault:
    return Vault(settings, "second factors")


async def seal(session: AsyncSession, settings: Settings) -> None:
    """Encrypt what was stored before SECRET_KEY was set.

    Raises KeyUnusableError for what was encrypted under another one.
    """
    vault = vault_of(settings)
    is_locked = func.substr(SecondFactor.secret, 1, len(LOCKED)) == LOCKED
    if locked := await session.scalar(select(SecondFactor.secret).where(is_locked).limit(1)):
        vault.unlock(locked)
    if vault.locks:
        for secret in (await session.scalars(select(SecondFactor.secret).where(~is_locked))).all():
            await begin_write(session)
            await session.execute(
                update(SecondFactor)
                .where(SecondFactor.secret == secret)
                .values(secret=vault.lock(secret))
            )
    await session.commit()
