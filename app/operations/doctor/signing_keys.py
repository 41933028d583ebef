"""Whether SECRET_KEY decrypts the signing keys, and whether they rotate."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

from sqlalchemy import func, select

from app.errors import StartupError
from app.operations.doctor.finding import Finding
from app.operations.doctor.system import System
from app.tokens.signing_keys.models import StoredKey

LATE = timedelta(days=1)


async def check(system: System) -> AsyncIterator[Finding]:
    settings = system.settings
    if settings.signing_algorithm == "HS256":
        text = "HS256_SECRET signs the tokens. It does not rotate by itself."
        yield Finding("signing keys", "ok", text)
        return
    async with system.context() as context:
        created_at = await context.session.scalar(select(func.max(StoredKey.created_at)))
        if created_at is None:
            text = "There is none yet. The first start of the service generates one."
            yield Finding("signing keys", "ok", text)
            return
        try:
            keyring = await system.services.keys.read(context)
        except StartupError as error:
            yield Finding("signing keys", "error", str(error))
            return
    age = datetime.now(UTC) - created_at
    text = f"The newest of {len(keyring.keys)} is {age.days} days old."
    limit = timedelta(days=settings.key_rotation_days)
    if limit and age > limit + LATE:
        remedy = "It should have been rotated: look for errors of the service in its log."
        yield Finding("signing keys", "warning", f"{text} {remedy}")
    else:
        yield Finding("signing keys", "ok", text)
