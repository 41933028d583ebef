"""Each proxy of examples/ between a real Hourpass and a model, started once for all tests."""

import asyncio
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import cache
from pathlib import Path

import httpx
import pytest

from tests.conftest import serving
from tests.support.model_server import Model
from tests.support.proxies import CONFIGURED, GATEWAYS, Court, an_hour_ago, gateway


@pytest.fixture(scope="session")
def court(sqlite_template: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Court]:
    copy = tmp_path_factory.mktemp("court") / "hourpass.db"
    shutil.copy(sqlite_template, copy)
    url = f"sqlite:///{copy}"
    expired = asyncio.run(an_hour_ago(url))
    with serving(url) as base_url, httpx.Client(base_url=base_url) as hourpass:
        yield Court(hourpass, expired)


@pytest.fixture(scope="session")
def model() -> Iterator[Model]:
    model = Model()
    yield model
    model.stop()


@pytest.fixture(scope="session", params=GATEWAYS)
def kind(request: pytest.FixtureRequest) -> str:
    kind: str = request.param
    return kind


@pytest.fixture(scope="session")
def shipped(court: Court, model: Model) -> Iterator[Callable[[str], str]]:
    """The URL of a proxy with its files as they are."""
    with ExitStack() as stack:
        yield cache(lambda kind: stack.enter_context(gateway(kind, court.port, model.port)))


@pytest.fixture(scope="session")
def configured(court: Court, model: Model) -> Iterator[Callable[[str], str]]:
    """The URL of a proxy with open paths and with short times."""
    with ExitStack() as stack:
        yield cache(
            lambda kind: stack.enter_context(
                gateway(kind, court.port, model.port, *CONFIGURED[kind])
            )
        )


@pytest.fixture
def url(kind: str, shipped: Callable[[str], str], model: Model) -> str:
    model.seen.clear()
    return shipped(kind)


@pytest.fixture
def configured_url(kind: str, configured: Callable[[str], str], model: Model) -> str:
    model.seen.clear()
    return configured(kind)


@pytest.fixture
def proxy(url: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=url) as client:
        yield client
