"""A service, its document, and people for the clients to be tried with."""

import shutil
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import httpx
import pytest

from tests.support.generated_clients import INSTALLED, Company
from tests.support.running_service import RunningService, running_service
from tests.support.users import ARTHUR, bearer

_numbers = count(1)


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    database = tmp_path_factory.mktemp("service") / "hourpass.db"
    issuer = "https://hourpass.example"  # Redocly warns of a document that names localhost
    with running_service(f"sqlite:///{database}", ISSUER=issuer) as service:
        yield service


@pytest.fixture(scope="module")
def document(service: RunningService, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("document") / "openapi.json"
    path.write_text(httpx.get(f"{service.url}/openapi.json").text)
    return path


@pytest.fixture
def company(service: RunningService) -> Iterator[Company]:
    headers = bearer(service.log_in(ARTHUR))
    with httpx.Client(base_url=service.url, headers=headers) as arthur:
        yield Company(service.url, arthur, next(_numbers))


@pytest.fixture
def node_project(tmp_path: Path, document: Path) -> Path:
    """A folder in which Node.js finds the packages, and the document."""
    tmp_path.joinpath("node_modules").symlink_to(INSTALLED / "node_modules")
    tmp_path.joinpath("package.json").write_text('{"type": "module"}')
    shutil.copy(document, tmp_path)
    return tmp_path
