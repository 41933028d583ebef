"""Writing the log and reading it. Neither changes an entry, and the database refuses to: triggers
let go only of strangers' failures, and of what is older than 29 days, which is a day less than
AUDIT_DAYS can be, since clocks differ (migrations 0003 and 0007)."""

from collections.abc import Sequence
from typing import cast

from pydantic_core import to_json
from sqlalchemy import ColumnElement, Table, and_, insert, select
from sqlalchemy.ext.asyncio import AsyncSession

from app.audit.models import Entry
from app.database import fast_queries
from app.events import Event
from app.http.pagination import PageQuery

MAX_STRANGERS = 200_000  # refused logins kept: who guesses can make the log grow by no more

_WRITE = insert(cast("Table", Entry.__table__)).inline()
_IS_STRANGERS = and_(Entry.actor_id.is_(None), ~Entry.succeeded)


async def write(session: AsyncSession, event: Event) -> None:
    """A listener: the entry is part of the transaction that does the deed."""
    caller = event.caller
    entry = {
        "at": event.at,
        "action": event.action,
        "actor_id": caller.user_id,
        "subject_id": event.subject_id,
        "succeeded": event.succeeded,
        "address": caller.address,
        "user_agent": caller.user_agent,
        "request_id": event.request_id,
        "details": to_json(event.details).decode(),
    }
    await fast_queries.run(session, _WRITE, entry)


async def beyond(session: AsyncSession, kept: int) -> ColumnElement[bool]:
    """A condition for a query: what strangers failed at before their last `kept` failures."""
    newest_first = select(Entry.id).where(_IS_STRANGERS).order_by(Entry.id.desc())
    last = await session.scalar(newest_first.offset(kept).limit(1))
    return and_(_IS_STRANGERS, Entry.id <= (last or 0))


async def read(
    session: AsyncSession, conditions: Sequence[ColumnElement[bool]], asked: PageQuery
) -> tuple[Sequence[Entry], str | None]:
    """A page of entries, the newest first, and the cursor of the next page, if there is one."""
    query = select(Entry).where(*conditions).order_by(Entry.id.desc()).limit(asked.limit + 1)
    if asked.position is not None:
        query = query.where(Entry.id < asked.position)
    return asked.cut((await session.scalars(query)).all())
