"""Starts a proxy with its files from examples/, and a Hourpass with users for it."""

import os
import re
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import httpx

from app.context import RequestContext
from app.main import create_app
from app.settings import ROOT
from tests.support.apps import client_of
from tests.support.limited_tokens import token_of_key
from tests.support.processes import free_port
from tests.support.settings import Clock, make_settings, utc_now
from tests.support.users import ARTHUR, GALAHAD, LANCELOT, Person, log_in, register

EXAMPLES = ROOT / "examples"
START_TIMEOUT_SECONDS = 20
# nginx and Caddy are Debian packages. Traefik and Envoy come in wheels, which `make test-examples`
# installs.
EXAMPLES_BIN = ROOT / ".venv/examples/bin"
SEARCH_PATH = os.pathsep.join([str(EXAMPLES_BIN), os.environ.get("PATH", ""), "/usr/sbin"])
GATEWAYS = {
    "nginx": ("model_behind_nginx", "nginx -p . -c nginx.conf -e stderr"),
    "caddy": ("caddy", "caddy run --config Caddyfile"),
    "traefik": ("traefik", "traefik --configFile=traefik.yml"),
    "envoy": ("envoy", "envoy -c envoy.yaml --disable-hot-restart --concurrency 1"),
}
# Settings with which a proxy opens OPEN_PATHS (path_cases.py) and CORS preflights, passes the user
# on under other names too, and waits two seconds where its file says ten minutes. By kind: what to
# replace in the files (regular expressions), and environment variables.
_SHORT = {r"\b600s": "2s"}
CONFIGURED: dict[str, tuple[dict[str, str], dict[str, str]]] = {
    "nginx": (
        {
            **_SHORT,
            r'# (~\^/|"~\^OPTIONS)': r"\1",
            '(X-Forwarded-User|Remote-User) ""': r"\1 $username",
        },
        {},
    ),
    "caddy": (
        {r"^(\t*)# (not {|\tmethod|\theader|}|request_header)": r"\1\2"},
        {"MODEL_TIMEOUT": "2s", "OPEN_PATHS": "^/health$|^/static/"},
    ),
    "traefik": (
        {"HeaderTimeout: 600s": "HeaderTimeout: 2s", r"^    # (open:|preflight:|  )": r"    \1"},
        {},
    ),
    "envoy": ({**_SHORT, r"^( *)# (- |  )": r"\1\2"}, {}),
}
Proxies = Callable[[str], httpx.Client]  # by kind
# Paths of the files that each proxy under test needs for itself.
_DIRECTORIES = {"nginx": {"/run/hourpass_cache": "hourpass_cache"}}

GUINEVERE = {
    "username": "Guenièvre du Lac",
    "password": "the queen of may",
    "email": "guinevere@camelot.example",
}
# Elaine may use two models, and Merlin all of them.
ELAINE = {"username": "elaine", "password": "the lily maid", "email": "elaine@astolat.example"}
MERLIN = {"username": "merlin", "password": "prophet of all", "email": "merlin@camelot.example"}
RIGHTS = {
    GUINEVERE["username"]: {"train", "predict"},
    ELAINE["username"]: {"predict:fraud-v3", "predict:iris"},
    MERLIN["username"]: {"predict:*"},
}


@dataclass
class ProxiedHourpass:
    """A service in which Guinevere may train and Galahad may not. It trusts the proxy."""

    client: httpx.Client
    expired_token: str  # Galahad's
    key_token: str  # of an API key of Guinevere, with the scope predict

    @property
    def port(self) -> int:
        port = self.client.base_url.port
        assert port
        return port

    def token(self, person: Person) -> str:
        response = self.client.post("/token", json=person)
        assert response.status_code == 200, response.text
        token: str = response.json()["token"]
        return token


async def register_users_an_hour_ago(database_url: str) -> tuple[str, str]:
    """Returns a token that has expired since then, and a token of an API key that is valid now."""
    clock = Clock()
    clock.now = utc_now() - timedelta(minutes=61)
    admin = {f"first_admin_{name}": ARTHUR[name] for name in ("username", "password")}
    app = create_app(make_settings(database_url, **admin), clock, clock)
    async with app.router.lifespan_context(app), client_of(app) as client:
        for person in (GUINEVERE, LANCELOT, GALAHAD, ELAINE, MERLIN):
            user_id = await register(client, person)
            if scopes := RIGHTS.get(person["username"]):
                async with app.state.database.session() as session:
                    context = RequestContext(session, clock())
                    await app.state.services.users.set_scopes(context, user_id, scopes)
        key_token = token_of_key(app, await log_in(client, GUINEVERE), "predict", utc_now())
        return await log_in(client, GALAHAD), key_token


@contextmanager
def gateway(
    kind: str,
    hourpass: int,
    model: int,
    changes: Mapping[str, str] | None = None,
    variables: Mapping[str, str] | None = None,
) -> Iterator[str]:
    """The example of that kind between these two ports; yields its URL. `changes` has regular
    expressions for its files, and what to write instead. `variables` are for its environment."""
    example, command = GATEWAYS[kind]
    port = free_port()
    ports = {"8000": str(hourpass), "8080": str(port), "9000": str(model)}
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        place.chmod(0o711)  # if root starts nginx, its workers run as another user
        changes = {**_DIRECTORIES.get(kind, {}), **(changes or {})}
        unused = set(changes)
        for path in (EXAMPLES / example).iterdir():
            if path.is_file():
                text = path.read_text()
                for old, new in changes.items():
                    text, times = re.subn(old, new, text, flags=re.MULTILINE)
                    if times:
                        unused.discard(old)
                text = re.sub(r"\b(8000|8080|9000)\b", lambda found: ports[found[0]], text)
                (place / path.name).write_text(text)
        assert not unused
        url = f"http://127.0.0.1:{port}"
        program, *arguments = command.split()
        found = shutil.which(program, path=SEARCH_PATH)
        assert found, f"{program} is not installed; see CONTRIBUTING.md"
        environment = {"HOME": name, **(variables or {})}
        with (place / "output").open("wb") as output:
            process = subprocess.Popen(
                [found, *arguments], cwd=place, stdout=output, stderr=output, env=environment
            )
        try:
            _wait_until_ready(process, url, place / "output")
            yield url
        finally:
            process.terminate()
            process.wait(START_TIMEOUT_SECONDS)


def _wait_until_ready(process: "subprocess.Popen[bytes]", url: str, output: Path) -> None:
    """Until it refuses a request without a token: some proxies listen before they have read their
    rules."""
    deadline = time.monotonic() + START_TIMEOUT_SECONDS
    while time.monotonic() < deadline:
        assert process.poll() is None, output.read_text()[-2000:]
        try:
            if httpx.get(url).status_code in (401, 500, 502, 503):
                return
        except httpx.TransportError:
            pass
        time.sleep(0.02)
    raise AssertionError(output.read_text()[-2000:])


@contextmanager
def connection(url: str, request: str) -> Iterator[socket.socket]:
    """For requests that no HTTP client would send."""
    parsed = httpx.URL(url)
    with socket.create_connection((parsed.host, parsed.port or 80), timeout=5) as connection:
        connection.sendall(request.encode())
        yield connection


def head_of_answer(connection: socket.socket) -> str:
    """The status line and the headers; empty if the connection was closed instead."""
    head = b""
    while not head.endswith(b"\r\n\r\n") and (byte := connection.recv(1)):
        head += byte
    return head.decode()
