"""Behind each proxy, an API key works from its networks only."""

import asyncio
import shutil
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.support.model_server import Model
from tests.support.proxies import GUINEVERE, an_hour_ago, gateway
from tests.support.service_process import serving
from tests.support.users import bearer

pytest_plugins = ["tests.support.proxy_fixtures"]

HERS, ANOTHER = "127.0.0.2", "127.0.0.3"


@pytest.fixture(scope="module")
def hourpass(
    sqlite_template: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[httpx.Client]:
    copy = tmp_path_factory.mktemp("networks") / "hourpass.db"
    shutil.copy(sqlite_template, copy)
    url = f"sqlite:///{copy}"
    asyncio.run(an_hour_ago(url))
    with (
        serving(url, TRUSTED_PROXIES="127.0.0.1") as base_url,
        httpx.Client(base_url=base_url) as client,
    ):
        yield client


def test_a_key_works_from_its_networks_only(
    kind: str, hourpass: httpx.Client, model: Model
) -> None:
    token = hourpass.post("/token", json=GUINEVERE).json()["token"]
    new = {"name": "notebook", "networks": [f"{HERS}/32"]}
    made = hourpass.post("/me/api-keys", json=new, headers=bearer(token))
    assert made.status_code == 201, made.text
    headers = bearer(made.json()["key"])
    assert hourpass.base_url.port
    with gateway(kind, hourpass.base_url.port, model.port) as url:
        for path in ("/predict", "/train"):
            # Several of each within a second, so that a proxy that caches has a response.
            for address, status in ((HERS, 200), (ANOTHER, 401), (HERS, 200), (ANOTHER, 401)):
                transport = httpx.HTTPTransport(local_address=address)
                with httpx.Client(transport=transport, base_url=url) as client:
                    for _ in range(4):
                        forged = headers | {"X-Forwarded-For": HERS}
                        response = client.post(path, headers=forged, json={})
                        assert response.status_code == status, (path, address)
