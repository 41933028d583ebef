"""What the audit logs of the former and of the restored database say."""

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession

from app.audit.models import Entry
from app.tokens.revocations.models import Feed
from app.users.models import User

# Actions that are not listed: each user has many.
ROUTINE = ("login", "session.open", "token.revoke", "service.backup")


async def is_later_state(former: AsyncSession, restored: AsyncSession) -> bool:
    """Whether the former database is a later state of the restored one. Otherwise it is another
    database, or an earlier state."""
    newest = (Entry.id, Entry.at, Entry.action)
    last = (await restored.execute(select(*newest).order_by(Entry.id.desc()).limit(1))).first()
    feed_name = select(Feed.name)
    has_same_feed = await former.scalar(feed_name) == await restored.scalar(feed_name)
    if last is None:
        return has_same_feed
    found = (await former.execute(select(*newest).where(Entry.id == last.id))).first()
    if found is not None:
        return tuple(found) == tuple(last)
    # Entries are deleted after AUDIT_DAYS.
    oldest = await former.scalar(select(func.min(Entry.id)))
    return has_same_feed and oldest is not None and oldest > last.id


@dataclass(frozen=True, slots=True)
class AuditedChange:
    """An entry of the former database's audit log."""

    at: datetime
    action: str
    by: str
    user: str


async def list_changes(
    former: AsyncSession, after_id: int, limit: int
) -> tuple[list[AuditedChange], int]:
    """The changes since the backup, oldest first, and how many are missing in the list."""
    since = (Entry.id > after_id, Entry.succeeded, Entry.action.not_in(ROUTINE))
    number = await former.scalar(select(func.count()).select_from(Entry).where(*since)) or 0
    entries = (
        await former.scalars(select(Entry).where(*since).order_by(Entry.id).limit(limit))
    ).all()
    ids = {id_ for entry in entries for id_ in (entry.actor_id, entry.subject_id) if id_}
    rows = await former.execute(select(User.id, User.username).where(User.id.in_(ids)))
    names: dict[int, str] = {row.id: row.username for row in rows}

    def name(id_: int | None) -> str:
        return names.get(id_ or 0, str(id_ or ""))

    listed = [AuditedChange(e.at, e.action, name(e.actor_id), name(e.subject_id)) for e in entries]
    return listed, number - len(listed)
