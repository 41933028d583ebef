"""docs/move-to-postgresql.md, step by step, with a client that stays logged in."""

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import pytest
from click.testing import CliRunner

from app.cli.main import main as hourpass
from app.operations.database_copy import source
from app.settings import ROOT
from hourpass import Guard, InvalidTokenError
from tests.support.database_templates import Postgres
from tests.support.forked_process import ForkedProcess
from tests.support.guards import comes_true, guard_messages, refusal_of
from tests.support.processes import environment, free_port
from tests.support.service_process import wait_until_ready
from tests.support.settings import CHEAP_HASHING
from tests.support.users import LANCELOT, bearer

PAGE = ROOT / "docs/move-to-postgresql.md"
IN_USE = "Another process uses the source"


def steps_of_the_page() -> tuple[str, str]:
    """The command, and what it prints."""
    blocks = re.findall(
        r"^   ```(?:bash|text)\n(.*?)^   ```$", PAGE.read_text(), re.MULTILINE | re.DOTALL
    )
    command, output = (re.sub("^   ", "", block, flags=re.MULTILINE) for block in blocks)
    return command, output


class Host:
    """Runs the service on one database after the other, always under the same URL, and commands
    with the same settings."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"

    def variables(self, database_url: str) -> dict[str, str]:
        return environment(
            DATABASE_URL=database_url,
            HOURPASS_HOME=str(self.directory),
            ISSUER=self.url,
            SECRET_KEY="0123456789abcdef" * 4,
            **CHEAP_HASHING,
        )

    @contextmanager
    def serving(self, database_url: str) -> Iterator[httpx.Client]:
        process = ForkedProcess(
            *("serve", "--port", str(self.port)),
            directory=str(self.directory),
            variables=self.variables(database_url),
        )
        try:
            wait_until_ready(process, self.url, workers=1)
            with httpx.Client(base_url=self.url) as client:
                yield client
        finally:
            process.terminate()
            process.wait(60)

    def run(self, script: str, database_url: str, status: int = 0) -> str:
        """A command of the page. Returns what it prints, errors included."""
        name, *arguments = script.split()
        assert name == "hourpass"
        ran = CliRunner().invoke(hourpass, arguments, env=self.variables(database_url))
        assert ran.exit_code == status, ran.output
        return ran.output


class LoggedIn:
    """A user with a session, an API key, and a guard that follows the feed."""

    def __init__(self, client: httpx.Client, url: str) -> None:
        assert client.post("/register-user", json=LANCELOT).status_code == 201
        self._session = self._log_in(client)
        key = client.post(
            "/me/api-keys", json={"name": "nightly"}, headers=bearer(self._session["token"])
        )
        assert key.status_code == 201, key.text
        self._key: str = key.json()["key"]
        self._revoked = self._log_in(client)["token"]
        self._guard = Guard(url)
        self._guard.check(self._revoked)
        self._revoke(client, self._revoked)

    def stays_logged_in(self, client: httpx.Client) -> None:
        """Everything from before still works, and what was revoked before is still revoked."""
        old = self._session["token"]
        assert comes_true(lambda: refusal_of(self._guard, old) is None)
        assert client.get("/me", headers=bearer(old)).status_code == 200
        assert client.get("/verify", headers=bearer(self._key)).status_code == 200
        assert refusal_of(self._guard, self._revoked) is InvalidTokenError
        assert client.get(f"/token_status/{self._revoked}").status_code == 401
        grant = {"grant_type": "refresh_token", "refresh_token": self._session["refresh_token"]}
        renewed = client.post("/token", data=grant)
        assert renewed.status_code == 200, renewed.text
        self._session = renewed.json()
        new = self._log_in(client)["token"]
        assert refusal_of(self._guard, new) is None
        self._revoke(client, new)

    def close(self) -> None:
        self._guard.close()

    def _log_in(self, client: httpx.Client) -> dict[str, Any]:
        response = client.post("/token", json={**LANCELOT, "scope": "offline_access"})
        assert response.status_code == 200, response.text
        answer: dict[str, Any] = response.json()
        return answer

    def _revoke(self, client: httpx.Client, token: str) -> None:
        """The guard learns of it."""
        assert client.post("/revoke", data={"token": token}).status_code == 200
        assert comes_true(lambda: refusal_of(self._guard, token) is InvalidTokenError)


def test_a_client_stays_logged_in_there_and_back(
    postgres: Postgres,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    caplog.set_level(logging.INFO, "hourpass.guard")
    monkeypatch.setattr(source, "SERVICE_STOP_SECONDS", 0.1)
    monkeypatch.chdir(tmp_path)
    command, output = steps_of_the_page()
    host = Host(tmp_path)
    target_file = tmp_path / "target-url"
    with postgres.database() as postgres_url:
        first = f"sqlite:///{tmp_path}/hourpass.db"
        last = f"sqlite:///{tmp_path}/again.db"
        target_file.write_text(f"{postgres_url}\n")
        with host.serving(first) as client:
            user = LoggedIn(client, host.url)
            assert IN_USE in host.run(command, first, status=1)
        for old, new in pairwise([first, postgres_url, last]):
            target_file.write_text(f"{new}\n")
            printed = host.run(command, old)
            if new == postgres_url:
                assert set(shape_of(output)) <= set(shape_of(printed))
            with host.serving(new) as client:
                user.stays_logged_in(client)
    user.close()
    assert not [message for message in guard_messages(caplog) if "another feed" in message]


def shape_of(output: str) -> list[str]:
    """Its lines without numbers, checksums and the URL."""
    lines = re.sub(r"postgresql://\S+", "URL", output).splitlines()
    return [re.sub(r"\s+[\d,]+\s+[0-9a-f]{16}$", "", line) for line in lines]
