from typing import Annotated

from fastapi import Depends, Request

from app.database import SessionDep
from app.revocations.service import Revocations
from app.tokens.dependencies import TokensDep


async def _revocations(request: Request, session: SessionDep, tokens: TokensDep) -> Revocations:
    return Revocations(session, tokens.lifetime, request.app.state.news)


RevocationsDep = Annotated[Revocations, Depends(_revocations)]
