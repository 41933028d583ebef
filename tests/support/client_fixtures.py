"""Fixtures of the tests of HourpassAuth: a service for each module, a user for each test.

A plugin, which must not be imported; what tests import is in http_clients.py.
"""

import hashlib
import shutil
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from app.main import create_app
from hourpass import HourpassAuth
from tests.support.http_clients import ClientService, RecordingTransport
from tests.support.servers import served
from tests.support.settings import Clock, make_settings
from tests.support.users import ARTHUR, LANCELOT


@pytest.fixture(scope="module")
def service_and_clock(
    sqlite_template: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[httpx.Client, Clock]]:
    """A service for all tests of the module, and its clock."""
    path = tmp_path_factory.mktemp("renewal") / "hourpass.db"
    shutil.copy(sqlite_template, path)
    clock = Clock()
    settings = make_settings(
        f"sqlite:///{path}",
        first_admin_username=ARTHUR["username"],
        first_admin_password=ARTHUR["password"],
        log_level="warning",
    )
    with (
        served(create_app(settings, clock, clock)) as url,
        httpx.Client(base_url=url, verify=False) as service,
    ):
        yield service, clock


@pytest.fixture
def service(
    service_and_clock: tuple[httpx.Client, Clock], request: pytest.FixtureRequest
) -> Iterator[ClientService]:
    client, clock = service_and_clock
    name = hashlib.sha256(request.node.name.encode()).hexdigest()[:8]
    user = {**LANCELOT, "username": f"lancelot {name}"}
    answer = client.post("/register-user", json=user)
    assert answer.status_code == 201, answer.text
    user_id = answer.json()["user_id"]
    with RecordingTransport() as transport:
        yield ClientService(client, clock, user, user_id, transport)


@pytest.fixture
def auth(service: ClientService) -> HourpassAuth:
    return service.auth()
