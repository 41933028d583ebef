"""A receiver that the service trusts and may reach. The service sends when a test says so."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from fastapi import FastAPI

from app.settings import Settings
from tests.support.https_receiver import LOOPBACK, Receiver, https_receiver
from tests.support.settings import Clock, utc_now


@pytest.fixture
async def receiver(tmp_path: Path) -> AsyncIterator[Receiver]:
    async with https_receiver(tmp_path) as it:
        yield it


@pytest.fixture
def settings(settings: Settings) -> Settings:
    changes = {"outbound_networks": LOOPBACK}
    return Settings.model_validate({**settings.model_dump(), **changes})


@pytest.fixture
def clock() -> Clock:
    """Begins now: receivers compare the time of a message with their own."""
    clock = Clock()
    clock.now = utc_now()
    return clock


@pytest.fixture
def app(app: FastAPI, receiver: Receiver) -> FastAPI:
    app.state.services.webhook_sender.http = receiver.client()
    return app
