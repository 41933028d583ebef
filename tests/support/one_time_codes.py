"""One-time codes without the mail, which takes most of the time of a test."""

from fastapi import FastAPI

from app.database.engine import begin_write
from app.security.one_time_codes import service
from app.security.one_time_codes.service import Purpose
from tests.support.apps import context_in


async def issue(app: FastAPI, user_id: int, purpose: Purpose, email: str | None = None) -> str:
    """A code as it would be mailed to the user."""
    async with app.state.database.session() as session:
        await begin_write(session)
        _, text = await service.issue(
            context_in(session, app), purpose, user_id=user_id, email=email
        )
        await session.commit()
    return text
