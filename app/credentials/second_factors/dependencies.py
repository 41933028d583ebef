from typing import Annotated

from fastapi import Depends, Request

from app.credentials.second_factors.service import SecondFactors


async def _second_factors(request: Request) -> SecondFactors:
    second_factors: SecondFactors = request.app.state.services.second_factors
    return second_factors


SecondFactorsDep = Annotated[SecondFactors, Depends(_second_factors)]
