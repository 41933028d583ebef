"""The court behind a real service on a real socket, as the guards of other processes meet it."""

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from typing import Any

import httpx
import pytest
import uvicorn

import hourpass
from app.settings import ROOT
from hourpass import Guard, GuardError
from tests.conftest import environment, free_port, serving
from tests.support.settings import CHEAP_HASHING
from tests.support.users import ARTHUR, Person, bearer

SOON_SECONDS = 5.0


class Court:
    """What its people do at the service. Each test may have a knight of its own."""

    def __init__(self, url: str, database_url: str) -> None:
        self.url = url
        self._database_url = database_url
        self._client = httpx.Client(base_url=url)
        self._numbers = count(1)

    def new_knight(self) -> Person:
        name = f"knight{next(self._numbers)}"
        knight = {
            "username": name,
            "password": "to the round table",
            "email": f"{name}@camelot.example",
        }
        knight["id"] = str(self._call("POST", "/register-user", 201, json=knight)["user_id"])
        return knight

    def log_in(self, person: Person, **form: str) -> str:
        credentials = {name: person[name] for name in ("username", "password")}
        token: str = self._call("POST", "/token", data={**credentials, **form})["access_token"]
        return token

    def new_token(self) -> str:
        return self.log_in(self.new_knight())

    def revoke(self, token: str) -> None:
        self._call("POST", "/revoke", data={"token": token})

    def end_session(self, token: str) -> None:
        [session] = self._call("GET", "/me/sessions", headers=bearer(token))["sessions"]
        self._call("DELETE", f"/me/sessions/{session['id']}", headers=bearer(token))

    def log_out_everywhere(self, token: str) -> None:
        self._call("POST", "/me/logout-everywhere", headers=bearer(token))

    def disable(self, person: Person) -> None:
        path = f"/toggle-user-permission/{person['id']}/0"
        self._call("PUT", path, headers=bearer(self.log_in(ARTHUR)))

    def remove(self, person: Person) -> None:
        self._call("DELETE", f"/remove-user/{person['id']}", headers=bearer(self.log_in(ARTHUR)))

    def command(self, *arguments: str) -> None:
        """`hourpass …` on the host of the service."""
        subprocess.run(
            [sys.executable, "-m", "hourpass", *arguments],
            cwd=ROOT,
            env=environment(DATABASE_URL=self._database_url, **CHEAP_HASHING),
            check=True,
            capture_output=True,
        )

    def _call(self, method: str, path: str, status: int = 200, **request: Any) -> dict[str, Any]:
        response = self._client.request(method, path, **request)
        assert response.status_code == status, response.text
        answer: dict[str, Any] = response.json()
        return answer

    def close(self) -> None:
        self._client.close()


@contextmanager
def holding_court(database_url: str, *arguments: str, **settings: str) -> Iterator[Court]:
    """Arthur administers."""
    variables = {
        "FIRST_ADMIN_USERNAME": ARTHUR["username"],
        "FIRST_ADMIN_PASSWORD": ARTHUR["password"],
        **settings,
    }
    with serving(database_url, *arguments, **variables) as url:
        court = Court(url, database_url)
        try:
            yield court
        finally:
            court.close()


def refusal_of(guard: Guard, token: str) -> type[GuardError] | None:
    """Which of the kinds that callers know."""
    try:
        guard.check(token)
    except GuardError as error:
        return next(kind for kind in type(error).__mro__ if kind in vars(hourpass).values())
    return None


def comes_true(condition: Callable[[], bool]) -> bool:
    """Whether it does soon: another process has to hear of something first."""
    deadline = time.monotonic() + SOON_SECONDS
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.005)
    return True


def guard_messages(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.message for record in caplog.records if record.name == "hourpass.guard"]


@contextmanager
def listening(api: Callable[..., Any]) -> Iterator[str]:
    """An API of ours behind a real server, on a thread. Yields its base URL."""
    port = free_port()
    server = uvicorn.Server(uvicorn.Config(api, port=port, log_level="error"))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        assert comes_true(lambda: server.started)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join(SOON_SECONDS)
