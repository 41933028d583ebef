"""What `hourpass after-restore` does to the database, and `hourpass restore --end-everything`."""

import secrets

from sqlalchemy import BigInteger, cast, delete, func, select, update

from app.context import RequestContext
from app.credentials.api_keys.models import ApiKey
from app.credentials.sessions.models import Session
from app.database.engine import begin_write
from app.database.locks import locked_in_order
from app.database.timelines import skip_ids
from app.security.one_time_codes.models import Code
from app.services import Services
from app.users.models import MAX_TOKEN_VERSION, User


async def revoke_everything(services: Services, context: RequestContext) -> list[str]:
    """Revoke every signing key, token, session and one-time code, suspend every API key, which may
    have been revoked since the backup, skip the ids that may have been assigned since then, and
    rename the revocation feed, so that every guard reads it from the beginning. Returns the kids of
    the revoked keys.

    Safe to repeat, and while workers run.
    """
    await begin_write(context.session)
    kids = await revoke_everything_within(services, context)
    await services.events.publish(context, "service.after_restore", None)
    await context.session.commit()
    return kids


async def revoke_everything_within(services: Services, context: RequestContext) -> list[str]:
    """The same as part of the caller's transaction."""
    session = context.session
    # For HS256 tokens, whose secret only the operator can replace.
    shift = secrets.randbelow(MAX_TOKEN_VERSION) + 1
    shifted = (cast(User.token_version, BigInteger) + shift) % (MAX_TOKEN_VERSION + 1)
    whole_table = {"synchronize_session": False}
    # Operations that lock several rows of the other tables lock the user first.
    locked = locked_in_order(select(User.id), User.id).subquery()
    await session.execute(select(func.count()).select_from(locked))
    await session.execute(update(User).values(token_version=shifted), execution_options=whole_table)
    await session.execute(delete(Session), execution_options=whole_table)
    await session.execute(delete(Code), execution_options=whole_table)
    works = (ApiKey.suspended_at.is_(None), ApiKey.revoked_at.is_(None))
    working = locked_in_order(select(ApiKey.id).where(*works), ApiKey.id)
    await session.execute(
        update(ApiKey).where(ApiKey.id.in_(working)).values(suspended_at=context.now),
        execution_options=whole_table,
    )
    await skip_ids(session)
    kids = await services.keys.revoke_all(context)
    for kid in kids:
        await services.revocations.publish(context, f"kid:{kid}")
    await services.revocations.rename_feed(context)
    return kids
