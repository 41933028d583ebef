"""Invitations by mail, and what becomes of their messages."""

from email.message import EmailMessage
from typing import Any

import pytest
from fastapi import FastAPI
from httpx import AsyncClient
from sqlalchemy import func, select

from app.mail.models import OutgoingMail
from app.settings import Settings
from tests.support.mail_server import MailServer, code_in
from tests.support.settings import ARTHUR_ADMINISTERS, make_settings
from tests.support.users import LANCELOT, bearer

SENDER = "Camelot <no-reply@camelot.example>"
KEY = "the lady of the lake has this key"
NEW_KEY = "the lady of the lake gave this key"
NOBODY_LISTENS = "smtp+plain://127.0.0.1:9"


@pytest.fixture
def settings(database_url: str, mailbox: MailServer) -> Settings:
    mail = {"smtp_url": mailbox.url, "mail_from": SENDER, "secret_key": KEY}
    return make_settings(database_url, **ARTHUR_ADMINISTERS, **mail)


def change(app: FastAPI, **values: object) -> None:
    """From now on, mail is sent with these settings."""
    app.state.settings = Settings.model_validate({**app.state.settings.model_dump(), **values})


async def invite(client: AsyncClient, token: str, email: str = LANCELOT["email"]) -> int:
    response = await client.post("/invitations", json={"email": email}, headers=bearer(token))
    assert response.status_code == 201, response.text
    number: int = response.json()["id"]
    return number


async def register_with(client: AsyncClient, message: EmailMessage, name: str = "lancelot") -> int:
    """Use the code of an invitation. Returns the status."""
    body = {**LANCELOT, "username": name, "invitation": code_in(message)}
    return (await client.post("/register-user", json=body)).status_code


async def states_of_mail(client: AsyncClient, token: str) -> list[dict[str, Any]]:
    answer = await client.get("/invitations", headers=bearer(token))
    return [invitation["mail"] for invitation in answer.json()["invitations"]]


async def count(app: FastAPI, table: type = OutgoingMail) -> int:
    async with app.state.database.session() as session:
        return await session.scalar(select(func.count()).select_from(table)) or 0


def records(caplog: pytest.LogCaptureFixture) -> list[dict[str, Any]]:
    return [vars(record) for record in caplog.records if record.name == "hourpass.mail"]
