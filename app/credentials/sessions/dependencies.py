from typing import Annotated

from fastapi import Depends, Request
from sqlalchemy.ext.asyncio import AsyncSession

from app.credentials.sessions.service import Sessions
from app.database.engine import SessionDep
from app.events import events_of
from app.tokens.revocations.dependencies import revocations_of


def sessions_of(request: Request, session: AsyncSession) -> Sessions:
    revocations, events = revocations_of(request, session), events_of(request, session)
    return Sessions(session, revocations, events, request.app.state.settings)


async def _sessions(request: Request, session: SessionDep) -> Sessions:
    return sessions_of(request, session)


SessionsDep = Annotated[Sessions, Depends(_sessions)]
