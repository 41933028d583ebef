from typing import Annotated

from fastapi import Depends, Request

from app.credentials.sessions.service import Sessions


async def _sessions(request: Request) -> Sessions:
    sessions: Sessions = request.app.state.services.sessions
    return sessions


SessionsDep = Annotated[Sessions, Depends(_sessions)]
