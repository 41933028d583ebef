"""A service in another process, started once for all tests of a run that need no fresh one.

A plugin, which must not be imported. Each test registers users of its own.
"""

import shutil
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from tests.support.running_service import RunningService, running_service

_SHARED_SECRET = "the sword in the stone, and in the lake"


def _running(
    template: Path, directory: Path, **settings: str
) -> AbstractContextManager[RunningService]:
    database = shutil.copy(template, directory / "hourpass.db")
    return running_service(f"sqlite:///{database}", **settings)


@pytest.fixture(scope="session")
def shared_service(
    sqlite_template: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningService]:
    with _running(sqlite_template, tmp_path_factory.mktemp("es256")) as service:
        yield service


@pytest.fixture(scope="session")
def shared_hs256_service(
    sqlite_template: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningService]:
    settings = {"SIGNING_ALGORITHM": "HS256", "HS256_SECRET": _SHARED_SECRET}
    with _running(sqlite_template, tmp_path_factory.mktemp("hs256"), **settings) as service:
        yield service
