"""Rates that a test soon exceeds."""

from collections import Counter
from datetime import timedelta

import pytest
from fastapi import FastAPI
from httpx import Response
from sqlalchemy import select

from app.audit.models import Entry
from app.security.rate_limits import service
from app.settings import Settings
from tests.support.users import assert_problem

PER_HOUR = 4
INTERVAL = timedelta(hours=1) / PER_HOUR
PER_WRITE = 2  # as LOGINS_PER_WRITE: after PER_HOUR logins, all are written down
MINUTE = timedelta(minutes=1)


@pytest.fixture
def settings(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Limits that a test soon exceeds."""
    monkeypatch.setattr(service, "LOGINS_PER_WRITE", PER_WRITE)
    return Settings.model_validate({**settings.model_dump(), "user_actions_per_hour": PER_HOUR})


def assert_refused(response: Response, wait: timedelta) -> None:
    """The response says exactly how long to wait."""
    assert_problem(response, 429, "too_many_attempts")
    assert response.headers["Retry-After"] == str(int(wait.total_seconds()))


async def actions(app: FastAPI) -> Counter[str]:
    async with app.state.database.session() as session:
        return Counter((await session.scalars(select(Entry.action))).all())
