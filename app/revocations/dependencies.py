from typing import Annotated

from fastapi import Depends

from app.database import SessionDep
from app.revocations.service import Revocations
from app.tokens.dependencies import TokensDep


async def _revocations(session: SessionDep, tokens: TokensDep) -> Revocations:
    return Revocations(session, tokens.lifetime)


RevocationsDep = Annotated[Revocations, Depends(_revocations)]
