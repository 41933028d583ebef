from typing import Annotated

from fastapi import Depends, Request
from pydantic import SecretStr

from app.credentials.second_factors.service import SecondFactors
from app.http.dependencies import ContextDep
from app.users.dependencies import VerifiedBearer


async def _second_factors(request: Request) -> SecondFactors:
    second_factors: SecondFactors = request.app.state.services.second_factors
    return second_factors


SecondFactorsDep = Annotated[SecondFactors, Depends(_second_factors)]


class RecentSecondFactor:
    """Lets a route require a recent second factor of a caller who has one. An operation that
    follows compares `token_version`, which a change of the second factor changes."""

    def __init__(
        self, bearer: VerifiedBearer, second_factors: SecondFactorsDep, context: ContextDep
    ) -> None:
        self._claims = bearer.claims
        self._second_factors = second_factors
        self._context = context
        self.token_version = bearer.claims.token_version

    async def require(self, action: str, otp: SecretStr | None) -> None:
        """Raises the errors of SecondFactors.require_recent()."""
        await self._second_factors.require_recent(self._context, action, self._claims, otp)


RecentSecondFactorDep = Annotated[RecentSecondFactor, Depends()]
