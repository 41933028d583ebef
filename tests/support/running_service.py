"""A service in another process and its users, as the guards of an API see it."""

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from typing import Any

import httpx

from app.settings import ROOT
from tests.support.forked_process import ForkedProcess
from tests.support.processes import environment
from tests.support.service_process import serving
from tests.support.settings import CHEAP_HASHING
from tests.support.users import ARTHUR, Person, bearer


class RunningService:
    """The requests of its users. Each test can register its own user."""

    def __init__(self, url: str, database_url: str) -> None:
        self.url = url
        self._database_url = database_url
        self._client = httpx.Client(base_url=url)
        self._numbers = count(1)

    def new_user(self) -> Person:
        name = f"user{next(self._numbers)}"
        user = {
            "username": name,
            "password": "to the round table",
            "email": f"{name}@camelot.example",
        }
        user["id"] = str(self._call("POST", "/register-user", 201, json=user)["user_id"])
        return user

    def log_in(self, person: Person, **form: str) -> str:
        credentials = {name: person[name] for name in ("username", "password")}
        token: str = self._call("POST", "/token", data={**credentials, **form})["access_token"]
        return token

    def new_token(self) -> str:
        return self.log_in(self.new_user())

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
        variables = environment(DATABASE_URL=self._database_url, **CHEAP_HASHING)
        process = ForkedProcess(*arguments, directory=str(ROOT), variables=variables)
        assert process.wait() == 0

    def _call(self, method: str, path: str, status: int = 200, **request: Any) -> dict[str, Any]:
        response = self._client.request(method, path, **request)
        assert response.status_code == status, response.text
        answer: dict[str, Any] = response.json()
        return answer

    def close(self) -> None:
        self._client.close()


@contextmanager
def running_service(
    database_url: str, *arguments: str, **settings: str
) -> Iterator[RunningService]:
    """Arthur administers."""
    variables = {
        "FIRST_ADMIN_USERNAME": ARTHUR["username"],
        "FIRST_ADMIN_PASSWORD": ARTHUR["password"],
        **settings,
    }
    with serving(database_url, *arguments, **variables) as url:
        service = RunningService(url, database_url)
        try:
            yield service
        finally:
            service.close()
