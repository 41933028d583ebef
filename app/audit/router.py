from typing import Annotated

from fastapi import APIRouter, Query

from app.audit.dependencies import ErasureDep
from app.audit.errors import ErasureUnavailableError, UserNotRemovedError
from app.audit.schemas import AuditEntry, AuditPage, AuditQuery, PersonalDataErased
from app.audit.service import concerns, find_conditions, list_entries
from app.errors import InvalidRequestError
from app.http.dependencies import ContextDep
from app.http.error_responses import error_docs
from app.http.pagination import PageQuery
from app.users.dependencies import (
    ADMIN_CHANGE_ERRORS,
    ADMIN_ERRORS,
    OWNER_ERRORS,
    AccountOwner,
    CurrentAdmin,
    UserId,
)
from app.users.errors import UserNotFoundError

router = APIRouter()


@router.get(
    "/audit",
    operation_id="readAuditLog",
    summary="List audit entries",
    response_description="A page of the audit log.",
    tags=["Administration"],
    responses=error_docs(*ADMIN_ERRORS, InvalidRequestError),
)
async def read_audit_log(
    _: CurrentAdmin, query: Annotated[AuditQuery, Query()], context: ContextDep
) -> AuditPage:
    """Newest first. The service keeps entries for `AUDIT_DAYS`. It never changes them, except to
    erase the personal data of deleted users."""
    entries, next_cursor = await list_entries(context, find_conditions(query), query)
    shown = [AuditEntry.model_validate(entry) for entry in entries]
    return AuditPage(entries=shown, next_cursor=next_cursor)


@router.get(
    "/me/audit",
    operation_id="readOwnAuditLog",
    summary="List audit entries of my account",
    response_description="A page of the entries about your account.",
    tags=["My account"],
    responses=error_docs(*OWNER_ERRORS, InvalidRequestError),
)
async def read_own_audit_log(
    user: AccountOwner, query: Annotated[PageQuery, Query()], context: ContextDep
) -> AuditPage:
    """Your actions, and those of others on your account, newest first. IP addresses and user agents
    of other users are omitted."""
    entries, next_cursor = await list_entries(context, [concerns(user.id)], query)
    shown = [AuditEntry.model_validate(entry) for entry in entries]
    for entry in shown:
        if entry.actor_id not in (None, user.id):
            entry.address = entry.user_agent = entry.request_id = None
    return AuditPage(entries=shown, next_cursor=next_cursor)


@router.delete(
    "/users/{user_id}/personal-data",
    operation_id="erasePersonalData",
    summary="Erase the personal data of a deleted user",
    response_description="The personal data was erased.",
    tags=["Administration"],
    responses=error_docs(
        *ADMIN_CHANGE_ERRORS,
        ErasureUnavailableError,
        UserNotFoundError,
        UserNotRemovedError,
        InvalidRequestError,
    ),
)
async def erase_personal_data(
    _: CurrentAdmin, user_id: UserId, erasure: ErasureDep, context: ContextDep
) -> PersonalDataErased:
    """Removes the IP addresses, user agents and request ids of the user from the audit log. The
    entries stay, and the audit log gets an entry about the erasure. Delete the user first."""
    entries = await erasure.erase(context, user_id)
    return PersonalDataErased(user_id=user_id, entries=entries)
