"""Behind a proxy that is not in TRUSTED_PROXIES, the log has a warning once an hour, with the
address to add."""

import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI

from app.ip_addresses import WARNING_INTERVAL, ProxyWarning
from app.main import create_app
from tests.support.apps import client_of
from tests.support.markers import on_sqlite
from tests.support.processes import free_port
from tests.support.proxies import SEARCH_PATH, START_TIMEOUT_SECONDS
from tests.support.servers import served
from tests.support.settings import Clock, make_settings
from tests.support.started_service import forked
from tests.support.users import LANCELOT

PROXY = "203.0.113.7"
CLIENT = "198.51.100.23"
pytestmark = on_sqlite


class Seconds:
    """A monotonic clock that the test moves."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def seconds(app: FastAPI) -> Seconds:
    seconds = Seconds()
    app.state.proxy_warning = ProxyWarning(seconds)
    return seconds


async def log_in_from(app: FastAPI, peer: str, **headers: str) -> None:
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    async with client_of(app, peer) as client:
        response = await client.post("/token", json=LANCELOT, headers=sent)
        assert response.status_code in (401, 429)  # there is no such user, and logins are limited


def warnings_in(caplog: pytest.LogCaptureFixture) -> list[str]:
    found = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    caplog.clear()
    return [text for text in found if "TRUSTED_PROXIES" in text]


NAMED = {
    PROXY: PROXY,
    "127.0.0.1": "127.0.0.1",
    f"::ffff:{PROXY}": PROXY,
    "2001:db8::1": "2001:db8::1",
    "": "127.0.0.1",  # a Unix socket
}


async def test_the_warning_names_the_proxy_and_repeats_nothing_that_was_sent(
    app: FastAPI, caplog: pytest.LogCaptureFixture, subtests: pytest.Subtests
) -> None:
    for peer, named in NAMED.items():
        with subtests.test(peer):
            app.state.proxy_warning = ProxyWarning()
            await log_in_from(app, peer, X_Forwarded_For=f"{CLIENT}, some text")
            assert CLIENT not in caplog.text
            assert "some text" not in caplog.text
            (warning,) = warnings_in(caplog)
            assert f"add {named} to TRUSTED_PROXIES" in warning
            assert "If this is your proxy" in warning


async def test_the_warning_is_logged_at_most_once_an_hour(
    app: FastAPI, seconds: Seconds, caplog: pytest.LogCaptureFixture
) -> None:
    for number in range(3):
        await log_in_from(app, f"203.0.113.{number}", X_Forwarded_For=CLIENT)
        await log_in_from(app, f"203.0.113.{number}", Forwarded=f"for={CLIENT}")
    assert len(warnings_in(caplog)) == 1
    seconds.now = WARNING_INTERVAL - 0.001
    await log_in_from(app, PROXY, X_Forwarded_For=CLIENT)
    assert warnings_in(caplog) == []
    seconds.now = float(WARNING_INTERVAL)
    await log_in_from(app, PROXY, X_Forwarded_For=CLIENT)
    await log_in_from(app, PROXY, X_Forwarded_For=CLIENT)
    assert len(warnings_in(caplog)) == 1
    assert WARNING_INTERVAL == 3600


async def test_without_such_a_header_there_is_no_warning(
    app: FastAPI, caplog: pytest.LogCaptureFixture
) -> None:
    await log_in_from(app, PROXY)
    await log_in_from(app, "127.0.0.1", X_Forwarded_Proto="https")
    assert warnings_in(caplog) == []


async def test_there_is_no_warning_about_a_trusted_proxy(
    database_url: str, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    app = create_app(make_settings(database_url, trusted_proxies=PROXY), clock, clock)
    async with app.router.lifespan_context(app):
        await log_in_from(app, PROXY, X_Forwarded_For=CLIENT, X_Real_IP=CLIENT, Forwarded="for=_x")
        await log_in_from(app, "", X_Forwarded_For=CLIENT)
        assert warnings_in(caplog) == []
        await log_in_from(app, "203.0.113.8", X_Forwarded_For=CLIENT)
        (warning,) = warnings_in(caplog)
        assert "203.0.113.8" in warning


@pytest.mark.parametrize("trusted", ["", PROXY], ids=["not trusted", "trusted"])
async def test_the_warning_about_another_header_says_which_one_is_read(
    database_url: str, clock: Clock, caplog: pytest.LogCaptureFixture, trusted: str
) -> None:
    app = create_app(make_settings(database_url, trusted_proxies=trusted), clock, clock)
    async with app.router.lifespan_context(app):
        for header in ("Forwarded", "X-Real-IP"):
            app.state.proxy_warning = ProxyWarning()
            await log_in_from(app, PROXY, **{header: CLIENT})
            (warning,) = warnings_in(caplog)
            assert warning.startswith(f"Ignored {header}, since only X-Forwarded-For is read")
            assert PROXY in warning
            assert CLIENT not in warning


@contextmanager
def caddy_before(url: str, directory: Path) -> Iterator[str]:
    """A plain reverse proxy. Caddy sends X-Forwarded-For by default."""
    process, port = next(started for _ in range(5) if (started := start_caddy(url, directory)))
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(START_TIMEOUT_SECONDS)


def start_caddy(url: str, directory: Path) -> "tuple[subprocess.Popen[bytes], int] | None":
    """None if another process has taken the port."""
    program = shutil.which("caddy", path=SEARCH_PATH)
    assert program, "caddy is not installed; see CONTRIBUTING.md"
    port = free_port()
    config, output = directory / f"Caddyfile-{port}", directory / f"output-{port}"
    config.write_text(
        "{\n\tadmin off\n\tauto_https off\n}\n"
        f"http://127.0.0.1:{port} {{\n\tbind 127.0.0.1\n"
        f"\treverse_proxy {url.removeprefix('http://')}\n}}\n"
    )
    command = [program, "run", "--config", str(config), "--adapter", "caddyfile"]
    with output.open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env={"HOME": str(directory)})
    deadline = time.monotonic() + START_TIMEOUT_SECONDS
    # It says so in its log. An answer on the port could come from another process.
    while "serving initial configuration" not in (written := output.read_text()):
        if process.poll() is not None and "address already in use" in output.read_text():
            return None
        assert process.poll() is None, written[-2000:]
        assert time.monotonic() < deadline, written[-2000:]
        time.sleep(0.02)
    return process, port


@pytest.mark.parametrize("trusted", ["", "127.0.0.1"], ids=["not trusted", "trusted"])
def test_the_log_names_a_real_proxy_until_it_is_trusted(
    database_url: str, tmp_path: Path, trusted: str
) -> None:
    with forked(tmp_path, "serve", DATABASE_URL=database_url, TRUSTED_PROXIES=trusted) as service:
        service.wait_until_ready()
        with caddy_before(service.base_url, tmp_path) as url:
            for _ in range(3):
                assert log_in_by(url) == 401
        written = service.everything_written()
    expected = 0 if trusted else 1
    assert written.count("If this is your proxy, add 127.0.0.1 to TRUSTED_PROXIES") == expected


def test_with_plain_uvicorn_there_is_no_warning_about_loopback(
    database_url: str, clock: Clock, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    """uvicorn trusts loopback by itself: it has replaced the proxy's address with the client's."""
    with (
        served(create_app(make_settings(database_url), clock, clock)) as base_url,
        caddy_before(base_url, tmp_path) as url,
    ):
        assert log_in_by(url) == 401
    assert warnings_in(caplog) == []


def log_in_by(url: str) -> int:
    return httpx.post(f"{url}/token", json=LANCELOT, timeout=60).status_code
