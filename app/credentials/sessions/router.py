from collections.abc import Sequence
from typing import Annotated

from fastapi import APIRouter, Path

from app.credentials.sessions.dependencies import SessionsDep
from app.credentials.sessions.errors import SessionNotFoundError
from app.credentials.sessions.models import Session
from app.credentials.sessions.schemas import SessionEnded, SessionInfo, SessionList
from app.http.error_responses import documented
from app.tokens.dependencies import NowDep
from app.tokens.errors import InsufficientScopeError, InvalidTokenError, MissingTokenError
from app.users.dependencies import CurrentAdmin, CurrentUser, UserId, UsersDep
from app.users.errors import UserNotFoundError

router = APIRouter()

_FOR_USERS = (MissingTokenError, InvalidTokenError)
_FOR_ADMINS = (*_FOR_USERS, InsufficientScopeError, UserNotFoundError)

SessionId = Annotated[str, Path(pattern="^[0-9a-f]{16}$", examples=["1c7a40a3e5b64dd2"])]


@router.get(
    "/me/sessions",
    operation_id="listOwnSessions",
    summary="Where am I logged in?",
    tags=["Sessions"],
    responses=documented(*_FOR_USERS),
)
async def list_own_sessions(user: CurrentUser, sessions: SessionsDep, now: NowDep) -> SessionList:
    """The sessions opened with scope `offline_access`, newest first."""
    return _as_list(await sessions.list_of(user.id, now))


@router.delete(
    "/me/sessions/{session_id}",
    operation_id="endOwnSession",
    summary="End one of my sessions",
    tags=["Sessions"],
    responses=documented(*_FOR_USERS, SessionNotFoundError),
)
async def end_own_session(
    user: CurrentUser, session_id: SessionId, sessions: SessionsDep, now: NowDep
) -> SessionEnded:
    """Its refresh token and its access tokens end at once."""
    await sessions.end(user.id, session_id, now)
    return SessionEnded()


@router.get(
    "/users/{user_id}/sessions",
    operation_id="listSessionsOfUser",
    summary="Where is a user logged in?",
    tags=["Administration"],
    responses=documented(*_FOR_ADMINS),
)
async def list_sessions_of_user(
    _: CurrentAdmin, user_id: UserId, users: UsersDep, sessions: SessionsDep, now: NowDep
) -> SessionList:
    """As the user sees them."""
    await users.get(user_id)
    return _as_list(await sessions.list_of(user_id, now))


@router.delete(
    "/users/{user_id}/sessions/{session_id}",
    operation_id="endSessionOfUser",
    summary="End one of a user's sessions",
    tags=["Administration"],
    responses=documented(*_FOR_ADMINS, SessionNotFoundError),
)
async def end_session_of_user(
    _: CurrentAdmin, user_id: UserId, session_id: SessionId, sessions: SessionsDep, now: NowDep
) -> SessionEnded:
    """Its refresh token and its access tokens end at once."""
    await sessions.end(user_id, session_id, now)
    return SessionEnded()


def _as_list(rows: Sequence[Session]) -> SessionList:
    return SessionList(sessions=[SessionInfo.model_validate(row) for row in rows])
