"""Password-flow clients that others wrote get a token, use it, and understand a refusal.

On SQLite only: what they rely on is the answer's form, which no database changes.
"""

from collections.abc import Iterator

import httpx
import pytest
from authlib.integrations.base_client import OAuthError
from authlib.integrations.requests_client import OAuth2Session as AuthlibSession
from oauthlib.oauth2 import (  # type: ignore[import-untyped] # ships no types
    InvalidGrantError,
    LegacyApplicationClient,
)
from requests_oauthlib import OAuth2Session as RequestsSession

from tests.support.service_process import serving
from tests.support.users import LANCELOT

USERNAME, PASSWORD = LANCELOT["username"], LANCELOT["password"]


@pytest.fixture(scope="module")
def base_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    directory = tmp_path_factory.mktemp("oauth")
    with serving(f"sqlite:///{directory}/hourpass.db") as base_url:
        assert httpx.post(f"{base_url}/register-user", json=LANCELOT).status_code == 201
        yield base_url


@pytest.fixture(autouse=True)
def plain_http_is_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OAUTHLIB_INSECURE_TRANSPORT", "1")


@pytest.mark.parametrize("client_secret", [None, "any"], ids=["public", "with a client secret"])
def test_authlib_fetches_a_token_and_uses_it(base_url: str, client_secret: str | None) -> None:
    with AuthlibSession("notebook", client_secret) as session:
        token = session.fetch_token(f"{base_url}/token", username=USERNAME, password=PASSWORD)
        assert (token["token_type"], token["expires_in"]) == ("bearer", 3600)
        assert session.get(f"{base_url}/me").json()["username"] == USERNAME


def test_authlib_understands_a_wrong_password(base_url: str) -> None:
    with AuthlibSession("notebook") as session, pytest.raises(OAuthError) as caught:
        session.fetch_token(f"{base_url}/token", username=USERNAME, password="wrong")
    assert (caught.value.error, caught.value.description) == (
        "invalid_grant",
        "Invalid credentials",
    )


def test_authlib_understands_that_no_scope_is_granted(base_url: str) -> None:
    with AuthlibSession("notebook", scope="admin") as session, pytest.raises(OAuthError) as caught:
        session.fetch_token(f"{base_url}/token", username=USERNAME, password=PASSWORD)
    assert caught.value.error == "invalid_scope"


def test_requests_oauthlib_fetches_a_token_and_uses_it(base_url: str) -> None:
    with RequestsSession(client=LegacyApplicationClient("notebook")) as session:
        token = session.fetch_token(f"{base_url}/token", username=USERNAME, password=PASSWORD)
        assert (token["token_type"], token["expires_in"]) == ("bearer", 3600)
        assert session.get(f"{base_url}/me").json()["username"] == USERNAME


def test_requests_oauthlib_understands_a_wrong_password(base_url: str) -> None:
    with (
        RequestsSession(client=LegacyApplicationClient("notebook")) as session,
        pytest.raises(InvalidGrantError, match="Invalid credentials"),
    ):
        session.fetch_token(f"{base_url}/token", username=USERNAME, password="wrong")
