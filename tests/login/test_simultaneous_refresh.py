"""A refresh that waits for the session while its user's access tokens are revoked succeeds."""

import asyncio

from fastapi import FastAPI
from httpx import AsyncClient

from app.context import RequestContext
from app.database.engine import begin_write
from tests.support.markers import on_postgresql
from tests.support.users import LANCELOT, open_session, refresh, register, token_is_valid


@on_postgresql
async def test_a_refresh_waits_for_the_new_token_version(
    app: FastAPI, client: AsyncClient, context: RequestContext
) -> None:
    """PostgreSQL reads the session again then, and not its user."""
    user_id = await register(client, LANCELOT)
    session = await open_session(client, LANCELOT)
    await begin_write(context.session)
    await app.state.services.sessions.revoke_access_tokens(context, [user_id])
    await context.session.flush()
    waiting = asyncio.create_task(refresh(client, session["refresh_token"]))
    done, _ = await asyncio.wait([waiting], timeout=0.5)
    assert not done
    await context.session.commit()
    answer = await waiting
    assert answer.status_code == 200, answer.text
    assert await token_is_valid(client, answer.json()["token"])
    assert not await token_is_valid(client, session["token"])
