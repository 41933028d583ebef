from typing import Annotated

from fastapi import Depends, Request
from sqlalchemy.ext.asyncio import AsyncSession

from app.database import SessionDep
from app.events import events_of
from app.second_factors.service import SecondFactors
from app.users.dependencies import users_of


def second_factors_of(request: Request, session: AsyncSession) -> SecondFactors:
    state = request.app.state
    users, events = users_of(request, session), events_of(request, session)
    return SecondFactors(session, users, state.passwords, events, state.settings)


async def _second_factors(request: Request, session: SessionDep) -> SecondFactors:
    return second_factors_of(request, session)


SecondFactorsDep = Annotated[SecondFactors, Depends(_second_factors)]
