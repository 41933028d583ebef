"""Without ISSUER, the tokens of a service in development name the port that it listens on."""

from pathlib import Path

import httpx
import pytest

from app.settings import Settings
from tests.support.started_service import forked, token_of
from tests.support.users import ARTHUR, claims_of


@pytest.mark.parametrize(
    ("variables", "issuer"),
    [
        ({}, "http://localhost:8000"),
        ({"PORT": "9123"}, "http://localhost:9123"),
        ({"PORT": "0"}, "http://localhost:8000"),
        ({"PORT": "9123", "ISSUER": "https://hourpass.example"}, "https://hourpass.example"),
        ({"PORT": "9123", "ISSUER": ""}, "http://localhost:9123"),
    ],
)
def test_the_default_follows_the_port(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], issuer: str
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert Settings().issuer == issuer


def test_the_default_follows_the_option_of_the_command(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/hourpass.db"
    with forked(tmp_path, "serve", DATABASE_URL=url) as service:
        service.wait_until_ready()
        httpx.post(f"{service.base_url}/register-user", json=ARTHUR).raise_for_status()
        issuer = service.base_url.replace("127.0.0.1", "localhost")
        path = "/.well-known/oauth-authorization-server"
        assert httpx.get(f"{service.base_url}{path}").json()["issuer"] == issuer
        assert claims_of(token_of(service.base_url))["iss"] == issuer
