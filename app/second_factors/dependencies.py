from typing import Annotated

from fastapi import Depends, Request
from sqlalchemy.ext.asyncio import AsyncSession

from app.database import SessionDep
from app.events import events_of
from app.second_factors.service import SecondFactors
from app.users.dependencies import proof_of, users_of


def second_factors_of(request: Request, session: AsyncSession) -> SecondFactors:
    users, proof = users_of(request, session), proof_of(request, session)
    events, settings = events_of(request, session), request.app.state.settings
    return SecondFactors(session, users, proof, events, settings)


async def _second_factors(request: Request, session: SessionDep) -> SecondFactors:
    return second_factors_of(request, session)


SecondFactorsDep = Annotated[SecondFactors, Depends(_second_factors)]
