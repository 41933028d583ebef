"""Erases what identifies a removed user in the audit log: the IP addresses, the user agents and the
request ids. Entries stay, with the user's id.

Triggers of the database allow no other change, and none while the user exists (migration 0015).
"""

from sqlalchemy import ColumnElement, and_, func, or_, select, text, update
from sqlalchemy.ext.asyncio import AsyncSession

from app.audit.errors import ErasureUnavailableError, UserNotRemovedError
from app.audit.models import Entry
from app.context import RequestContext
from app.database.engine import begin_write
from app.events import Events
from app.users.errors import UserNotFoundError
from app.users.models import User

BATCH_SIZE = 500

# Commands on the server have "hourpass" as their user agent, and neither of the others.
_HAS_PERSONAL_DATA = or_(
    Entry.ip_address != "",
    Entry.user_agent.not_in(("", "hourpass")),
    Entry.request_id.is_not(None),
)
_MAY_ERASE = text(
    "SELECT has_column_privilege('audit_log', 'address', 'UPDATE')"
    " AND has_column_privilege('audit_log', 'user_agent', 'UPDATE')"
    " AND has_column_privilege('audit_log', 'request_id', 'UPDATE')"
)


class Erasure:
    def __init__(self, events: Events) -> None:
        self._events = events

    async def erase(self, context: RequestContext, user_id: int) -> int:
        """Erase the personal data of a removed user. Safe to repeat. Returns how many entries it
        changed: those of the user's actions, and those about the user without an actor, such as
        failed logins. In entries of administrators, the data is theirs.

        Raises UserNotRemovedError, UserNotFoundError if no entry is about the user, and
        ErasureUnavailableError.
        """
        session = context.session
        await _require_removed(session, user_id)
        await _require_permission(session)
        # First, so that nothing is erased without this entry.
        await begin_write(session)
        await self._events.publish(context, "user.erase", user_id)
        await session.commit()
        by_the_user = Entry.actor_id == user_id
        # Not `actor_id IS NULL`, by whose index the database would read all of these.
        by_nobody_else = func.coalesce(Entry.actor_id, user_id) == user_id
        about_the_user = and_(Entry.subject_id == user_id, by_nobody_else)
        return await _blank(session, by_the_user) + await _blank(session, about_the_user)


async def _require_removed(session: AsyncSession, user_id: int) -> None:
    if await session.scalar(select(User.id).where(User.id == user_id)):
        raise UserNotRemovedError
    for column in (Entry.subject_id, Entry.actor_id):
        if await session.scalar(select(Entry.id).where(column == user_id).limit(1)):
            return
    raise UserNotFoundError


async def _require_permission(session: AsyncSession) -> None:
    is_postgresql = session.get_bind().dialect.name == "postgresql"
    if is_postgresql and not await session.scalar(_MAY_ERASE):
        raise ErasureUnavailableError


async def _blank(session: AsyncSession, condition: ColumnElement[bool]) -> int:
    """In batches, so that other transactions do not wait long for the lock."""
    number, last = 0, 0
    query = select(Entry.id).where(condition, _HAS_PERSONAL_DATA).order_by(Entry.id)
    while batch := (await session.scalars(query.where(Entry.id > last).limit(BATCH_SIZE))).all():
        await begin_write(session)
        await session.execute(
            update(Entry)
            .where(Entry.id.in_(batch))
            .values(ip_address="", user_agent="", request_id=None)
            .execution_options(synchronize_session=False)
        )
        await session.commit()
        number, last = number + len(batch), batch[-1]
    return number
