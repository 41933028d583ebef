"""How many files of app/ a request enters, counted by execution in a running server.

A login that builds objects which it does not use, or a check that takes one more stop, shows here.
"""

import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import httpx
import pytest
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute

from app.http import dependencies as request_dependencies
from app.main import app as default_app
from app.main import create_app
from app.server.protocol import HttpProtocol
from app.settings import ROOT
from app.tokens import key_refresher
from app.tokens.dependencies import _BearerToken
from tests.support import database_templates as templates
from tests.support.servers import served
from tests.support.settings import make_settings
from tests.support.users import ARTHUR, bearer

APP = f"{ROOT}/app/"


class Walk:
    def __init__(self) -> None:
        self._files: dict[str, None] | None = None

    def profile(self, frame: FrameType, event: str, _: Any) -> None:
        file = frame.f_code.co_filename
        if self._files is not None and event == "call" and file.startswith(APP):
            name = file.removeprefix(APP)
            # The files of server/, which turn bytes into requests and back, count as one.
            self._files.setdefault("server/" if name.startswith("server/") else name)

    def shortest(self, call: Callable[[], httpx.Response]) -> list[str]:
        """The files, in the order of the first call. Of several calls, because background jobs and
        the end of an earlier request can only add to them."""
        walks = []
        for _ in range(6):
            self._files = {}
            assert call().status_code == 200
            walks.append(list(self._files))
            self._files = None
        return min(walks, key=len)


@pytest.fixture
def walk() -> Iterator[Walk]:
    """Records the threads that start from now on."""
    walk = Walk()
    threading.setprofile(walk.profile)
    yield walk
    threading.setprofile(None)


@pytest.fixture
def client(
    walk: Walk,  # noqa: ARG001 - comes before the server's thread
    sqlite_template: Path,  # noqa: ARG001 - removed at the end
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[httpx.Client]:
    # Background jobs do not run while a request does.
    monkeypatch.setattr(key_refresher, "REFRESH_SECONDS", 3600)
    database = shutil.copy(templates.started_sqlite(), tmp_path / "hourpass.db")
    settings = make_settings(f"sqlite:///{database}", key_rotation_days=0)
    app = create_app(settings)
    with (
        served(app, http=HttpProtocol, proxy_headers=False) as url,
        httpx.Client(base_url=url) as it,
    ):
        yield it


def assert_at_most(number: int, files: list[str]) -> None:
    """Prints the walk if there are more."""
    assert len(files) <= number, "\n".join([f"{len(files)} files instead of {number}:", *files])


def test_requests_enter_few_files(
    client: httpx.Client, walk: Walk, subtests: pytest.Subtests
) -> None:
    with subtests.test("a login with JSON"):
        assert_at_most(23, walk.shortest(lambda: client.post("/token", json=ARTHUR)))
    with subtests.test("a login with a form"):
        assert_at_most(23, walk.shortest(lambda: client.post("/token", data=ARTHUR)))
    token = client.post("/token", json=ARTHUR).json()["token"]
    with subtests.test("a check of a known token"):
        assert_at_most(7, walk.shortest(lambda: client.get(f"/token_status/{token}")))
    with subtests.test("a verification of a known token"):
        assert_at_most(8, walk.shortest(lambda: client.get("/verify", headers=bearer(token))))


def dependencies(dependant: Dependant) -> Iterator[object]:
    """In the order in which FastAPI calls them."""
    for dependency in dependant.dependencies:
        yield from dependencies(dependency)
        yield dependency.call


def test_a_missing_token_is_refused_before_a_database_session_is_made() -> None:
    """Otherwise such a request costs twice to three times as much."""
    included: list[Any] = [
        route for route in default_app.routes if hasattr(route, "original_router")
    ]
    protected = 0
    for route in (route for router in included for route in router.original_router.routes):
        assert isinstance(route, APIRoute)
        calls = list(dependencies(route.dependant))
        if _BearerToken in map(type, calls):
            protected += 1
            bearer_token = [type(call) for call in calls].index(_BearerToken)
            assert bearer_token < calls.index(request_dependencies._context), route.path
    assert protected > 30
