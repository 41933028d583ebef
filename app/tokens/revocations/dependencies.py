from fastapi import Request
from sqlalchemy.ext.asyncio import AsyncSession

from app.tokens.revocations.service import Revocations


def revocations_of(request: Request, session: AsyncSession) -> Revocations:
    state = request.app.state
    return Revocations(session, state.tokens.lifetime, state.revocation_cache)
