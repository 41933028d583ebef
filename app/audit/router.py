from datetime import UTC, datetime
from typing import Annotated

from fastapi import APIRouter, Query
from sqlalchemy import ColumnElement, or_

from app.audit.models import Entry
from app.audit.schemas import AuditEntry, AuditPage
from app.audit.service import read
from app.database import SessionDep
from app.error_responses import documented
from app.paging import Cursor, Limit
from app.tokens.errors import InsufficientScopeError, InvalidTokenError, MissingTokenError
from app.users.dependencies import CurrentAdmin, CurrentUser

router = APIRouter()

Id = Annotated[int | None, Query(ge=1, lt=2**63)]
Moment = Annotated[datetime | None, Query(description="RFC 3339; UTC if it names no zone.")]


@router.get(
    "/audit",
    operation_id="readAuditLog",
    summary="Who did what to whom?",
    tags=["Administration"],
    responses=documented(MissingTokenError, InvalidTokenError, InsufficientScopeError),
)
async def read_audit_log(  # noqa: PLR0913, PLR0917 - one for each thing to look for
    _: CurrentAdmin,
    session: SessionDep,
    action: Annotated[
        str | None,
        Query(
            pattern=r"^[a-z_]{1,20}(\.[a-z_]{0,20})?$",
            description="All of it, or its beginning up to the dot.",
            examples=["user.", "login"],
        ),
    ] = None,
    actor_id: Id = None,
    subject_id: Id = None,
    succeeded: Annotated[bool | None, Query()] = None,
    since: Moment = None,
    until: Moment = None,
    cursor: Cursor = None,
    limit: Limit = 50,
) -> AuditPage:
    """The newest first. Entries cannot be changed, and are kept for AUDIT_DAYS."""
    conditions: list[ColumnElement[bool]] = []
    if action is not None and action.endswith("."):
        conditions += [Entry.action >= action, Entry.action < action[:-1] + "/"]  # what follows "."
    elif action is not None:
        conditions.append(Entry.action == action)
    if actor_id is not None:
        conditions.append(Entry.actor_id == actor_id)
    if subject_id is not None:
        conditions.append(Entry.subject_id == subject_id)
    if succeeded is not None:
        conditions.append(Entry.succeeded.is_(succeeded))
    if since is not None:
        conditions.append(Entry.at >= _in_utc(since))
    if until is not None:
        conditions.append(Entry.at < _in_utc(until))
    entries, further = await read(session, conditions, int(cursor) if cursor else None, limit)
    return _page([AuditEntry.model_validate(entry) for entry in entries], further)


@router.get(
    "/me/audit",
    operation_id="readOwnAuditLog",
    summary="What was done to my account, and by me?",
    tags=["Users"],
    responses=documented(MissingTokenError, InvalidTokenError),
)
async def read_own_audit_log(
    user: CurrentUser, session: SessionDep, cursor: Cursor = None, limit: Limit = 50
) -> AuditPage:
    """The newest first. From where another user did something is left out."""
    conditions = [or_(Entry.subject_id == user.id, Entry.actor_id == user.id)]
    entries, further = await read(session, conditions, int(cursor) if cursor else None, limit)
    shown = [AuditEntry.model_validate(entry) for entry in entries]
    for entry in shown:
        if entry.actor_id not in (None, user.id):
            entry.address = entry.user_agent = entry.request_id = None
    return _page(shown, further)


def _page(entries: list[AuditEntry], further: int | None) -> AuditPage:
    return AuditPage(entries=entries, next_cursor=str(further) if further else None)


def _in_utc(moment: datetime) -> datetime:
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment
