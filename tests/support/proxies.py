"""What stands around a proxy of examples/: people who are known to Hourpass, and a model that
remembers all that reaches it. The proxy itself is started with the very files that lie there."""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import NamedTuple

import httpx

from app.context import RequestContext
from app.main import create_app
from app.settings import ROOT
from tests.support.apps import client_of
from tests.support.processes import free_port
from tests.support.settings import Clock, make_settings, utc_now
from tests.support.users import ARTHUR, GALAHAD, LANCELOT, Person, log_in, register

EXAMPLES = ROOT / "examples"
START_TIMEOUT_SECONDS = 20
# nginx and Caddy are Debian packages, Traefik and Envoy come in wheels.
SEARCH_PATH = os.pathsep.join(
    [str(Path(sys.executable).parent), os.environ.get("PATH", ""), "/usr/sbin"]
)
GATEWAYS = {
    "nginx": ("model_behind_nginx", "nginx -p . -c nginx.conf -e stderr"),
    "caddy": ("caddy", "caddy run --config Caddyfile"),
    "traefik": ("traefik", "traefik --configFile=traefik.yml"),
    "envoy": ("envoy", "envoy -c envoy.yaml --use-dynamic-base-id --concurrency 1"),
}


GUINEVERE = {
    "username": "Guenièvre du Lac",
    "password": "the queen of may",
    "email": "guinevere@camelot.example",
}


@dataclass
class Court:
    """A service in which Guinevere may train and Galahad may not."""

    hourpass: httpx.Client
    expired: str  # Galahad's, issued in earnest an hour ago

    @property
    def port(self) -> int:
        port = self.hourpass.base_url.port
        assert port
        return port

    def token(self, person: Person) -> str:
        response = self.hourpass.post("/token", json=person)
        assert response.status_code == 200, response.text
        token: str = response.json()["token"]
        return token


async def an_hour_ago(database_url: str) -> str:
    """Register everybody; returns a token of then."""
    clock = Clock()
    clock.now = utc_now() - timedelta(minutes=61)
    admin = {f"first_admin_{name}": ARTHUR[name] for name in ("username", "password")}
    app = create_app(make_settings(database_url, **admin), clock, clock)
    async with app.router.lifespan_context(app), client_of(app) as client:
        guinevere = await register(client, GUINEVERE)
        async with app.state.database.session() as session:
            scopes = {"train", "predict"}
            await app.state.services.users.set_scopes(
                RequestContext(session, clock()), guinevere, scopes
            )
        await register(client, LANCELOT)
        await register(client, GALAHAD)
        return await log_in(client, GALAHAD)


@contextmanager
def gateway(kind: str, directory: Path, hourpass: int, model: int) -> Iterator[str]:
    """The example of that kind between these two ports; yields its URL."""
    example, command = GATEWAYS[kind]
    port = free_port()
    ports = {"8000": str(hourpass), "8080": str(port), "9000": str(model)}
    place = directory / f"{kind}-{port}"
    place.mkdir()
    for path in (EXAMPLES / example).iterdir():
        if path.is_file():
            text = re.sub(r"\b(8000|8080|9000)\b", lambda found: ports[found[0]], path.read_text())
            (place / path.name).write_text(text)
    url = f"http://127.0.0.1:{port}"
    program, *arguments = command.split()
    found = shutil.which(program, path=SEARCH_PATH)
    assert found, f"{program} is not installed; see CONTRIBUTING.md"
    with (place / "output").open("wb") as output:
        process = subprocess.Popen(
            [found, *arguments], cwd=place, stdout=output, stderr=output, env={"HOME": str(place)}
        )
    try:
        _wait_until_it_refuses(process, url, place / "output")
        yield url
    finally:
        process.terminate()
        process.wait(START_TIMEOUT_SECONDS)


def _wait_until_it_refuses(process: "subprocess.Popen[bytes]", url: str, output: Path) -> None:
    """Which takes the rules: some listen before they have read them."""
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


class Seen(NamedTuple):
    """A request as it arrived."""

    method: str
    path: str
    headers: list[tuple[str, str]]
    body_bytes: int

    def values(self, name: str) -> list[str]:
        """Of every header that a server could take for this one, as CGI and WSGI do."""
        return [value for given, value in self.headers if _variable(given) == _variable(name)]


def _variable(header: str) -> str:
    return "".join(letter if letter.isalnum() else "_" for letter in header.upper())


class Model:
    """Answers everything, and remembers it."""

    def __init__(self) -> None:
        self.seen: list[Seen] = []
        model = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def answer(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
                if "chunked" in self.headers.get("Transfer-Encoding", ""):
                    while size := int(self.rfile.readline(), 16):
                        body += self.rfile.read(size)
                        self.rfile.readline()
                    self.rfile.readline()
                headers = self.headers.items()
                model.seen.append(Seen(self.command, self.path, headers, len(body)))
                if self.headers.get("Upgrade") == "websocket":
                    self.echo()
                    return
                answer = json.dumps({"prediction": 42}).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(answer)

            def echo(self) -> None:
                self.send_response(101)
                self.send_header("Upgrade", "websocket")
                self.send_header("Connection", "Upgrade")
                self.end_headers()
                self.wfile.write(self.rfile.readline())
                self.close_connection = True

            do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = do_OPTIONS = answer  # noqa: N815 - http.server calls these

            def log_message(self, *_: object) -> None:
                """Nothing: a test prints only what failed."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()

    @property
    def port(self) -> int:
        return self._server.server_port

    def stop(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@contextmanager
def connection(url: str, request: str) -> Iterator[socket.socket]:
    """To say what no HTTP client would."""
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
