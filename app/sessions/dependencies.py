from typing import Annotated

from fastapi import Depends, Request

from app.database import SessionDep
from app.revocations.dependencies import RevocationsDep
from app.sessions.service import Sessions


async def _sessions(request: Request, session: SessionDep, revocations: RevocationsDep) -> Sessions:
    return Sessions(session, revocations, request.app.state.settings)


SessionsDep = Annotated[Sessions, Depends(_sessions)]
