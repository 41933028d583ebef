"""OAuth libraries get a token, use it, and understand an error.

On SQLite only: they rely on the form of responses, which no database changes.
"""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from authlib.integrations.base_client import OAuthError
from authlib.integrations.requests_client import OAuth2Session as AuthlibSession
from oauthlib.oauth2 import (  # type: ignore[import-untyped] # ships no types
    BackendApplicationClient,
    InvalidClientError,
    InvalidGrantError,
    LegacyApplicationClient,
)
from requests_oauthlib import OAuth2Session as RequestsSession

from tests.support import database_templates as templates
from tests.support.api_keys import forge
from tests.support.service_process import serving
from tests.support.users import ARTHUR, LANCELOT, bearer

USERNAME, PASSWORD = LANCELOT["username"], LANCELOT["password"]
ACCOUNT = "svc-nightly"


@pytest.fixture(scope="module")
def base_url(
    sqlite_template: Path,  # noqa: ARG001 - removed at the end
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[str]:
    directory = tmp_path_factory.mktemp("oauth")
    database = shutil.copy(templates.started_sqlite(), directory / "hourpass.db")
    with serving(f"sqlite:///{database}") as base_url:
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


@pytest.fixture(scope="module")
def api_key(base_url: str) -> str:
    """Of a service account, made over HTTP."""
    with httpx.Client(base_url=base_url) as client:
        credentials = {name: ARTHUR[name] for name in ("username", "password")}
        client.headers = bearer(client.post("/token", data=credentials).json()["access_token"])
        account = {"username": ACCOUNT, "scopes": ["predict:fraud-*", "train"]}
        account_id = client.post("/service-accounts", json=account).json()["id"]
        path = f"/users/{account_id}/api-keys"
        key: str = client.post(path, json={"name": "scoring host"}).json()["key"]
        return key


by_basic_and_by_form = pytest.mark.parametrize(
    "method", ["client_secret_basic", "client_secret_post"]
)


@by_basic_and_by_form
def test_authlib_fetches_a_token_with_client_credentials(
    base_url: str, api_key: str, method: str
) -> None:
    scope = "predict:fraud-v3"
    with AuthlibSession(
        ACCOUNT, api_key, token_endpoint_auth_method=method, scope=scope
    ) as session:
        token = session.fetch_token(f"{base_url}/token", grant_type="client_credentials")
        assert (token["token_type"], token["scope"]) == ("bearer", scope)
        assert "refresh_token" not in token
        assert session.get(f"{base_url}/me").json()["username"] == ACCOUNT
    with (
        AuthlibSession(ACCOUNT, forge(api_key), token_endpoint_auth_method=method) as session,
        pytest.raises(OAuthError) as caught,
    ):
        session.fetch_token(f"{base_url}/token", grant_type="client_credentials")
    assert caught.value.error == "invalid_client"


@by_basic_and_by_form
def test_requests_oauthlib_fetches_a_token_with_client_credentials(
    base_url: str, api_key: str, method: str
) -> None:
    def fetch(session: Any, key: str) -> Any:
        if method == "client_secret_basic":
            return session.fetch_token(f"{base_url}/token", auth=(ACCOUNT, key))
        return session.fetch_token(
            f"{base_url}/token", client_id=ACCOUNT, client_secret=key, include_client_id=True
        )

    with RequestsSession(client=BackendApplicationClient(ACCOUNT)) as session:
        token = fetch(session, api_key)
        assert (token["token_type"], token["scope"]) == ("bearer", ["predict:fraud-*", "train"])
        assert "refresh_token" not in token
        assert session.get(f"{base_url}/me").json()["kind"] == "service"
    with (
        RequestsSession(client=BackendApplicationClient(ACCOUNT)) as session,
        pytest.raises(InvalidClientError),
    ):
        fetch(session, forge(api_key))
