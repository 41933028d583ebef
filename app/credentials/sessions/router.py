from collections.abc import Sequence
from typing import Annotated

from fastapi import APIRouter, Path

from app.credentials.sessions.dependencies import SessionsDep
from app.credentials.sessions.errors import SessionNotFoundError
from app.credentials.sessions.models import Session
from app.credentials.sessions.schemas import SessionInfo, SessionList, SessionRevoked
from app.errors import InvalidRequestError
from app.http.dependencies import ContextDep
from app.http.error_responses import error_docs
from app.users.dependencies import (
    ADMIN_CHANGE_ERRORS,
    ADMIN_ERRORS,
    OWNER_ERRORS,
    AccountOwner,
    CurrentAdmin,
    UserId,
    UsersDep,
)
from app.users.errors import UserNotFoundError

router = APIRouter()

SessionId = Annotated[
    str,
    Path(pattern="^[0-9a-f]{16}$", description="The session's id.", examples=["1c7a40a3e5b64dd2"]),
]


@router.get(
    "/me/sessions",
    operation_id="listOwnSessions",
    summary="List my sessions",
    response_description="Your sessions.",
    tags=["My sessions"],
    responses=error_docs(*OWNER_ERRORS),
)
async def list_own_sessions(
    user: AccountOwner, sessions: SessionsDep, context: ContextDep
) -> SessionList:
    """Your logins with the scope `offline_access`, newest first."""
    return _as_list(await sessions.list_for_user(context, user.id))


@router.delete(
    "/me/sessions/{session_id}",
    operation_id="endOwnSession",
    summary="Revoke one of my sessions",
    response_description="The session and its tokens were revoked.",
    tags=["My sessions"],
    responses=error_docs(*OWNER_ERRORS, SessionNotFoundError, InvalidRequestError),
)
async def end_own_session(
    user: AccountOwner, session_id: SessionId, sessions: SessionsDep, context: ContextDep
) -> SessionRevoked:
    """Revokes its refresh token and access tokens at once."""
    await sessions.revoke(context, user.id, session_id)
    return SessionRevoked()


@router.get(
    "/users/{user_id}/sessions",
    operation_id="listSessionsOfUser",
    summary="List the sessions of a user",
    response_description="The user's sessions.",
    tags=["Administration"],
    responses=error_docs(*ADMIN_ERRORS, UserNotFoundError, InvalidRequestError),
)
async def list_sessions_of_user(
    _: CurrentAdmin, user_id: UserId, users: UsersDep, sessions: SessionsDep, context: ContextDep
) -> SessionList:
    """The user's logins with the scope `offline_access`, newest first."""
    await users.get(context, user_id)
    return _as_list(await sessions.list_for_user(context, user_id))


@router.delete(
    "/users/{user_id}/sessions/{session_id}",
    operation_id="endSessionOfUser",
    summary="Revoke a session of a user",
    response_description="The session and its tokens were revoked.",
    tags=["Administration"],
    responses=error_docs(
        *ADMIN_CHANGE_ERRORS, UserNotFoundError, InvalidRequestError, SessionNotFoundError
    ),
)
async def end_session_of_user(
    _: CurrentAdmin,
    user_id: UserId,
    session_id: SessionId,
    sessions: SessionsDep,
    context: ContextDep,
) -> SessionRevoked:
    """Revokes its refresh token and access tokens at once."""
    await sessions.revoke(context, user_id, session_id)
    return SessionRevoked()


def _as_list(rows: Sequence[Session]) -> SessionList:
    return SessionList(sessions=[SessionInfo.model_validate(row) for row in rows])
