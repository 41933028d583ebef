"""Behind a path of a real nginx, every address that the service names leads back to it."""

import asyncio
import shutil
import subprocess
from collections.abc import Iterator

import httpx
import pytest
from playwright.sync_api import expect

from app.http.addresses import is_well_known_suffix, path_prefix, public_path, public_url
from hourpass import Guard
from tests.support.browser import (
    Visit,
    assert_can_call_what_is_protected,
    authorize,
    browser,
    visit,
)
from tests.support.processes import free_port
from tests.support.proxies import SEARCH_PATH, START_TIMEOUT_SECONDS
from tests.support.service_process import serving
from tests.support.users import ARTHUR, GALAHAD, LANCELOT, bearer, claims_of
from tests.support.waiting import until

__all__ = ["browser", "visit"]

_NGINX = """pid nginx.pid;
error_log stderr;
daemon off;
worker_processes 1;
events {}
http {
    access_log off;
    client_body_temp_path body;
    proxy_temp_path proxy;
    fastcgi_temp_path fastcgi;
    uwsgi_temp_path uwsgi;
    scgi_temp_path scgi;
    server {
        listen 127.0.0.1:%(port)d;
        location /auth/ {
            proxy_pass %(service)s/;
        }
        location = /.well-known/oauth-authorization-server/auth {
            proxy_pass %(service)s;
        }
    }
}
"""


@pytest.fixture(scope="module")
def base_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Ends with the path below which the proxy serves the service."""
    directory = tmp_path_factory.mktemp("prefix")
    port = free_port()
    issuer = f"http://127.0.0.1:{port}/auth"
    admin = {f"FIRST_ADMIN_{name.upper()}": ARTHUR[name] for name in ("username", "password")}
    with serving(f"sqlite:///{directory}/hourpass.db", ISSUER=issuer, **admin) as service:
        httpx.post(f"{service}/register-user", json=LANCELOT).raise_for_status()
        (directory / "nginx.conf").write_text(_NGINX % {"port": port, "service": service})
        program = shutil.which("nginx", path=SEARCH_PATH)
        assert program
        process = subprocess.Popen(
            [program, "-p", ".", "-c", "nginx.conf", "-e", "stderr"], cwd=directory
        )
        try:
            asyncio.run(until(lambda: _answers(issuer)))
            yield issuer
        finally:
            process.terminate()
            process.wait(START_TIMEOUT_SECONDS)


def _answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/healthz").status_code == 200
    except httpx.TransportError:
        return False


@pytest.fixture
def client(base_url: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=base_url) as client:
        yield client


def test_all_urls_of_the_metadata_work(client: httpx.Client, base_url: str) -> None:
    metadata = client.get("/.well-known/oauth-authorization-server").json()
    assert metadata["issuer"] == base_url
    addresses = [value for name, value in metadata.items() if name.endswith(("_endpoint", "_uri"))]
    assert len(addresses) == 4
    for address in (*addresses, metadata["service_documentation"]):
        assert address.startswith(f"{base_url}/")
        assert client.get(address).status_code in (200, 405)


def test_the_metadata_is_where_rfc_8414_puts_it(client: httpx.Client, base_url: str) -> None:
    host = base_url.removesuffix("/auth")
    found = client.get(f"{host}/.well-known/oauth-authorization-server/auth")
    assert found.json() == client.get("/.well-known/oauth-authorization-server").json()
    for other in ("/", "/other", "/auth/auth"):
        path = f"/.well-known/oauth-authorization-server{other}"
        assert client.get(path).status_code == 404


def test_a_created_user_is_at_its_location(client: httpx.Client, base_url: str) -> None:
    headers = bearer(client.post("/token", json=ARTHUR).json()["token"])
    created = client.post("/users", json=GALAHAD, headers=headers)
    assert created.status_code == 201
    location = httpx.URL(base_url).join(created.headers["Location"])
    assert str(location).startswith(f"{base_url}/users/")
    assert client.get(location, headers=headers).json()["username"] == GALAHAD["username"]


def test_the_urls_of_the_start_page_and_of_the_openapi_document_work(
    client: httpx.Client, base_url: str
) -> None:
    links = client.get("/", headers={"Accept": "application/json"}).json()
    for name in ("docs", "openapi"):
        assert client.get(httpx.URL(base_url).join(links[name])).status_code == 200
    document = client.get("/openapi.json").json()
    [server] = document["servers"]
    api = httpx.URL(base_url).join(server["url"])
    assert client.get(f"{api}/readyz").status_code == 200
    flow = document["components"]["securitySchemes"]["Password"]["flows"]["password"]
    assert str(httpx.URL(base_url).join(flow["tokenUrl"])) == f"{base_url}/token"


def test_a_guard_follows_a_service_below_a_path(client: httpx.Client, base_url: str) -> None:
    token = client.post("/token", json=LANCELOT).json()["token"]
    assert claims_of(token)["iss"] == base_url
    with Guard(base_url) as guard:
        assert guard.check(token).username == LANCELOT["username"]


def test_the_docs_page_logs_in_and_calls(
    visit: Visit,
    base_url: str,
) -> None:
    page = visit.page
    page.goto(f"{base_url}/docs")
    authorize(page, LANCELOT)
    dialog = page.locator(".modal-ux")
    expect(dialog).to_contain_text("Logout")
    dialog.locator(".modal-btn.btn-done").first.click()
    assert_can_call_what_is_protected(page, LANCELOT)
    assert visit.errors == []


@pytest.mark.parametrize(
    ("issuer", "prefix"),
    [
        ("https://login.example", ""),
        ("https://login.example/", ""),
        ("https://example.org/auth", "/auth"),
        ("https://example.org/auth/", "/auth"),
        ("https://example.org/team/auth", "/team/auth"),
        ("hourpass", ""),
    ],
)
def test_the_prefix_is_the_path_of_the_issuer(issuer: str, prefix: str) -> None:
    assert path_prefix(issuer) == prefix
    assert public_path(issuer, "/docs") == f"{prefix}/docs"
    assert public_url(issuer, "/docs") == issuer.rstrip("/") + "/docs"
    assert is_well_known_suffix(issuer, prefix.removeprefix("/")) is bool(prefix)
    assert not is_well_known_suffix(issuer, "other")
