"""A service in this process with limits that a test chooses, as `hourpass serve` would run it."""

import asyncio
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from fastapi import FastAPI, Request

from app.main import create_app
from app.server.connections import Connections, TimeLimits
from app.server.protocol import HttpProtocol
from app.settings import Settings
from tests.support.servers import served
from tests.support.settings import make_settings

JSON = "Content-Type: application/json"


def wait_for(condition: Callable[[], bool], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


class LimitedService:
    """A service in this process, with two routes that take as long as a test wants."""

    def __init__(self, settings: Settings, times: TimeLimits) -> None:
        self.app: FastAPI = create_app(settings)
        self.app.state.connections = self.connections = Connections(settings, times)
        self.go_on = threading.Event()
        self.hung_up = threading.Event()
        self.base_url = ""

        async def hang_up(request: Request) -> None:
            while (await request.receive())["type"] != "http.disconnect":
                pass
            self.hung_up.set()

        @self.app.get("/slow")
        async def slow(request: Request) -> str:
            waiting = asyncio.create_task(hang_up(request))
            while not self.go_on.is_set() and not waiting.done():
                await asyncio.sleep(0.01)
            waiting.cancel()
            return "done"

        @self.app.get("/large")
        async def large() -> str:
            return "x" * 16_000_000

    @property
    def open(self) -> int:
        return self.connections.open


@contextmanager
def limited_service(
    template: Path, directory: Path, times: TimeLimits, **settings: object
) -> Iterator[LimitedService]:
    """`template` is a migrated SQLite file."""
    database = shutil.copy(template, directory / "hourpass.db")
    service = LimitedService(make_settings(f"sqlite:///{database}", **settings), times)
    options = {"http": HttpProtocol, "ws": "none", "proxy_headers": False}
    with served(service.app, **options) as service.base_url:
        try:
            yield service
        finally:
            service.go_on.set()
