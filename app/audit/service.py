"""Writing the log and reading it. Neither changes an entry, and the database refuses to: triggers
let go only of what is older than KEPT_AT_LEAST, and of strangers' failures (migration 0003)."""

import json
from collections.abc import Sequence
from datetime import timedelta

from sqlalchemy import ColumnElement, and_, insert, select
from sqlalchemy.ext.asyncio import AsyncSession

from app.audit.models import Entry
from app.events import Event

KEPT_AT_LEAST = timedelta(days=30)
MAX_STRANGERS = 200_000  # refused logins kept: who guesses can make the log grow by no more

_IS_STRANGERS = and_(Entry.actor_id.is_(None), ~Entry.succeeded)


async def write(session: AsyncSession, event: Event) -> None:
    """A listener: the entry is part of the transaction that does the deed."""
    caller = event.caller
    await session.execute(
        insert(Entry).values(
            at=event.at,
            action=event.action,
            actor_id=caller.user_id,
            subject_id=event.subject_id,
            succeeded=event.succeeded,
            address=caller.address,
            user_agent=caller.user_agent,
            request_id=event.request_id,
            details=json.dumps(event.details),
        )
    )


def is_beyond(kept: int) -> ColumnElement[bool]:
    """A condition for a query: what strangers failed at before their last `kept` failures."""
    newest_first = select(Entry.id).where(_IS_STRANGERS).order_by(Entry.id.desc())
    return and_(_IS_STRANGERS, Entry.id <= newest_first.offset(kept).limit(1).scalar_subquery())


async def read(
    session: AsyncSession, conditions: Sequence[ColumnElement[bool]], before: int | None, limit: int
) -> tuple[Sequence[Entry], int | None]:
    """At most `limit` entries, the newest first, and what to continue before, if there are more.

    What is written meanwhile neither repeats an entry nor hides one.
    """
    if before is not None:
        conditions = [*conditions, Entry.id < before]
    query = select(Entry).where(*conditions).order_by(Entry.id.desc()).limit(limit + 1)
    entries = (await session.scalars(query)).all()
    page = entries[:limit]
    return page, page[-1].id if len(entries) > limit else None
