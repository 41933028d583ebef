"""Each proxy of examples/ between a real Hourpass and a model, started once for all tests."""

import asyncio
import shutil
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack
from functools import cache
from pathlib import Path

import httpx
import pytest

from tests.support.model_server import Model
from tests.support.proxies import (
    CONFIGURED,
    GATEWAYS,
    Court,
    Proxies,
    an_hour_ago,
    gateway,
)
from tests.support.service_process import serving


@pytest.fixture(scope="session")
def court(sqlite_template: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Court]:
    copy = tmp_path_factory.mktemp("court") / "hourpass.db"
    shutil.copy(sqlite_template, copy)
    url = f"sqlite:///{copy}"
    expired, of_key = asyncio.run(an_hour_ago(url))
    with serving(url) as base_url, httpx.Client(base_url=base_url) as hourpass:
        yield Court(hourpass, expired, of_key)


@pytest.fixture(scope="session")
def model() -> Iterator[Model]:
    model = Model()
    yield model
    model.stop()


@pytest.fixture(params=GATEWAYS)
def kind(request: pytest.FixtureRequest) -> str:
    kind: str = request.param
    return kind


@pytest.fixture(scope="session")
def shipped(court: Court, model: Model) -> Iterator[Proxies]:
    """A client of the proxy of this kind, with its files as they are."""
    with ExitStack() as stack:
        yield cache(lambda kind: _client(stack, gateway(kind, court.port, model.port)))


@pytest.fixture(scope="session")
def configured(court: Court, model: Model) -> Iterator[Proxies]:
    """A client of the proxy of this kind, with open paths and short times."""
    with ExitStack() as stack:
        yield cache(
            lambda kind: _client(stack, gateway(kind, court.port, model.port, *CONFIGURED[kind]))
        )


def _client(stack: ExitStack, proxy: AbstractContextManager[str]) -> httpx.Client:
    # To read the certificates of authorities takes longer than most tests.
    client = httpx.Client(base_url=stack.enter_context(proxy), verify=False, timeout=30)
    return stack.enter_context(client)


@pytest.fixture
def proxy(kind: str, shipped: Proxies, model: Model) -> httpx.Client:
    model.seen.clear()
    return shipped(kind)


@pytest.fixture
def configured_proxy(kind: str, configured: Proxies, model: Model) -> httpx.Client:
    model.seen.clear()
    return configured(kind)


@pytest.fixture
def url(proxy: httpx.Client) -> str:
    return str(proxy.base_url).rstrip("/")
