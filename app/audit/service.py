"""Writes and reads the audit log.

Entries cannot be changed, except to erase the personal data of removed users (erasure.py). Database
triggers allow only two kinds to be deleted: failures of unauthenticated clients, and entries older
than 29 days, which is a day less than the minimum of AUDIT_DAYS, since clocks differ (migrations
0003, 0007 and 0015).
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

from pydantic_core import to_json
from sqlalchemy import ColumnElement, Table, and_, insert, or_, select
from sqlalchemy.ext.asyncio import AsyncSession

from app.audit.models import Entry
from app.context import RequestContext
from app.database import fast_queries
from app.events import Event
from app.http.pagination import PageQuery

if TYPE_CHECKING:
    from app.audit.schemas import AuditQuery

MAX_ANONYMOUS_FAILURES = 200_000  # older ones are deleted, so that guesses cannot fill the table

# The names on the right were used before version 0.2. Older entries still have them.
_FORMER_NAMES = {
    "invitation.revoke": "invitation.take_back",
    "second_factor.required": "second_factor.demand",
    "user.revoke_tokens": "user.end_tokens",
    "user.unlock": "throttle.clear",
    "user.unverify_email": "user.doubt_email",
}
_SYNONYMS = _FORMER_NAMES | {former: name for name, former in _FORMER_NAMES.items()}

_WRITE = insert(cast("Table", Entry.__table__)).inline()
_IS_ANONYMOUS_FAILURE = and_(Entry.actor_id.is_(None), ~Entry.succeeded)


async def write_entry(context: RequestContext, event: Event) -> None:
    """A subscriber. The entry is part of the transaction of the action."""
    entry = {
        "at": context.now,
        "action": event.action,
        "actor_id": context.user_id,
        "subject_id": event.subject_id,
        "succeeded": event.succeeded,
        "address": context.ip_address,
        "user_agent": context.user_agent,
        "request_id": context.request_id,
        "details": to_json(event.details).decode(),
    }
    await fast_queries.run(context.session, _WRITE, entry)


def find_conditions(query: "AuditQuery") -> list[ColumnElement[bool]]:
    """Conditions for a query: its filters, without the cursor."""
    conditions: list[ColumnElement[bool]] = []
    if query.action:
        conditions.append(has_action(query.action))
    if query.actor_id is not None:
        conditions.append(Entry.actor_id == query.actor_id)
    if query.subject_id is not None:
        conditions.append(Entry.subject_id == query.subject_id)
    if query.succeeded is not None:
        conditions.append(Entry.succeeded.is_(query.succeeded))
    if query.since is not None:
        conditions.append(Entry.at >= query.since)
    if query.until is not None:
        conditions.append(Entry.at < query.until)
    return conditions


def concerns(user_id: int) -> ColumnElement[bool]:
    """A condition for a query: what the user did, and what was done to the account."""
    return or_(Entry.subject_id == user_id, Entry.actor_id == user_id)


def has_action(action: str) -> ColumnElement[bool]:
    """A condition for a query: an action, by its current or former name, or all actions that begin
    with `action` if it ends with a dot."""
    if not action.endswith("."):
        return Entry.action.in_({action, _SYNONYMS.get(action, action)})
    after = action[:-1] + "/"  # the character that follows "."
    renamed = [other for name, other in _SYNONYMS.items() if name.startswith(action)]
    return or_(and_(Entry.action >= action, Entry.action < after), Entry.action.in_(renamed))


async def older_anonymous_failures(session: AsyncSession, kept: int) -> ColumnElement[bool]:
    """A condition for a query: failures of unauthenticated clients before the last `kept` ones."""
    newest_first = select(Entry.id).where(_IS_ANONYMOUS_FAILURE).order_by(Entry.id.desc())
    last = await session.scalar(newest_first.offset(kept).limit(1))
    return and_(_IS_ANONYMOUS_FAILURE, Entry.id <= (last or 0))


async def list_entries(
    context: RequestContext, conditions: Sequence[ColumnElement[bool]], query: PageQuery
) -> tuple[Sequence[Entry], str | None]:
    """A page of entries, newest first, and the cursor of the next page, if there is one."""
    statement = select(Entry).where(*conditions).order_by(Entry.id.desc()).limit(query.limit + 1)
    if query.position is not None:
        statement = statement.where(Entry.id < query.position)
    return query.paginate((await context.session.scalars(statement)).all())
