from typing import Annotated

from fastapi import Depends, Request

from app.credentials.second_factors.service import SecondFactors
from app.users.dependencies import ProofDep


async def _second_factors(request: Request, proof: ProofDep) -> SecondFactors:
    return SecondFactors(proof, request.app.state.settings)


SecondFactorsDep = Annotated[SecondFactors, Depends(_second_factors)]
