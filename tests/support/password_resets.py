"""Password resets over HTTP, for a user without a session."""

import pytest
from fastapi import FastAPI
from httpx import AsyncClient, Response

from tests.support.mail_server import MailServer, deliver
from tests.support.users import LANCELOT, register

NEW = "guinevere in the garden"
WITH_NEW_PASSWORD = {**LANCELOT, "password": NEW}


async def ask(client: AsyncClient, email: str = LANCELOT["email"], **headers: str) -> Response:
    return await client.post("/password-resets", json={"email": email}, headers=headers)


async def confirm(client: AsyncClient, code: str, password: str = NEW) -> Response:
    body = {"code": code, "new_password": password}
    return await client.post("/password-resets/confirm", json=body)


@pytest.fixture
async def lancelot(client: AsyncClient, app: FastAPI, mailbox: MailServer) -> int:
    """Registered. The message about that is delivered and removed."""
    user_id = await register(client, LANCELOT)
    await deliver(app)
    mailbox.messages.clear()
    return user_id
