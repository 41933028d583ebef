"""The command `hourpass import` beside a running app, on the same database."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime

import pytest
from click.testing import CliRunner, Result
from fastapi import FastAPI
from sqlalchemy import select

from app.cli.main import main
from app.http import access_log
from app.users.models import User
from tests.support.settings import CHEAP_HASHING, Clock

Import = Callable[..., Awaitable[Result]]


@pytest.fixture
def import_users(app: FastAPI, database_url: str, clock: Clock) -> Import:  # noqa: ARG001 - has to exist
    clock.now = datetime.now(UTC)  # as for the command

    async def run(*arguments: object, **variables: str) -> Result:
        access_log.request_log.flush()
        access_log.request_log.configure(enabled=False, as_text=False)  # to standard error
        environment = {**CHEAP_HASHING, "DATABASE_URL": database_url, **variables}
        command = ["import", *map(str, arguments)]
        return await asyncio.to_thread(CliRunner().invoke, main, command, env=environment)

    return run


async def users_of(app: FastAPI) -> dict[str, User]:
    """All but Arthur."""
    async with app.state.database.session() as session:
        found = await session.scalars(select(User).where(User.id > 1).order_by(User.id))
        return {user.username: user for user in found}
