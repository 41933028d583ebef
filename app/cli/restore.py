"""What a database needs after it was restored from a backup, or taken over from a standby that
lacked the last changes.

It says of users, keys and revocations what was true some time ago. Tokens that were revoked since
would be valid again, and ids that were given out since are given out a second time. So nothing that
was issued before may count any longer.
"""

import secrets
from datetime import datetime

from sqlalchemy import BigInteger, cast, delete, update
from sqlalchemy.ext.asyncio import AsyncSession

from app.credentials.sessions.models import Session
from app.database.engine import begin_write
from app.events import Events
from app.security.one_time_codes.models import Code
from app.tokens.revocations.service import Revocations
from app.tokens.signing_keys.store import KeyStore
from app.users.models import MAX_TOKEN_EPOCH, User


async def revoke_everything(
    session: AsyncSession,
    keys: KeyStore,
    revocations: Revocations,
    events: Events,
    now: datetime,
) -> list[str]:
    """Revoke every signing key, token, session and one-time code, and give the feed another name,
    so that every guard reads it from the beginning. Returns the kids of the revoked keys.

    Safe to repeat, and while workers run.
    """
    await begin_write(session)
    # For tokens under a shared secret (HS256), which is not ours to replace.
    shift = secrets.randbelow(MAX_TOKEN_EPOCH) + 1
    shifted = (cast(User.token_epoch, BigInteger) + shift) % (MAX_TOKEN_EPOCH + 1)
    whole_table = {"synchronize_session": False}
    await session.execute(update(User).values(token_epoch=shifted), execution_options=whole_table)
    await session.execute(delete(Session), execution_options=whole_table)
    await session.execute(delete(Code), execution_options=whole_table)
    kids = await keys.replace_all(now)
    for kid in kids:
        await revocations.publish(f"kid:{kid}")
    await revocations.rename_feed()
    await events.announce("service.after_restore", None, now)
    await session.commit()
    return kids
