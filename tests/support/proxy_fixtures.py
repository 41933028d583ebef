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
    ProxiedHourpass,
    Proxies,
    gateway,
    register_users_an_hour_ago,
)
from tests.support.service_process import serving


@pytest.fixture(scope="session")
def hourpass(
    sqlite_template: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ProxiedHourpass]:
    copy = tmp_path_factory.mktemp("hourpass") / "hourpass.db"
    shutil.copy(sqlite_template, copy)
    url = f"sqlite:///{copy}"
    tokens = asyncio.run(register_users_an_hour_ago(url))
    with (
        serving(url, TRUSTED_PROXIES="127.0.0.1") as base_url,
        httpx.Client(base_url=base_url) as client,
    ):
        yield ProxiedHourpass(client, *tokens)


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
def shipped(hourpass: ProxiedHourpass, model: Model) -> Iterator[Proxies]:
    """A client of the proxy of this kind, with its files as they are."""
    with ExitStack() as stack:
        yield cache(lambda kind: _client(stack, gateway(kind, hourpass.port, model.port)))


@pytest.fixture(scope="session")
def configured(hourpass: ProxiedHourpass, model: Model) -> Iterator[Proxies]:
    """A client of the proxy of this kind, with open paths and short times."""
    with ExitStack() as stack:
        yield cache(
            lambda kind: _client(stack, gateway(kind, hourpass.port, model.port, *CONFIGURED[kind]))
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
