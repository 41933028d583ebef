"""A page of another origin, in a real browser: docs/browser-front-end.md has its code.

On SQLite only, because the page does not use the database.
"""

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.sync_api import Browser, Page

from app.settings import ROOT
from tests.support.browser import browser
from tests.support.service_process import serving
from tests.support.users import LANCELOT

__all__ = ["browser"]

PAGE = (ROOT / "docs/browser-front-end.md").read_text()
[SCRIPT] = re.findall(r"```js\n(.*?)```", PAGE, re.DOTALL)
[POLICY] = re.findall(r"```text\nContent-Security-Policy: (.*?)\n```", PAGE, re.DOTALL)

LOG_IN = """
async ([service, username, password]) => {
    const login = new Login(service);
    await login.start(username, password);
    const user = await (await login.fetch("/me")).json();
    await login.refresh();
    const again = await (await login.fetch("/me/sessions")).json();
    const failed = await login.fetch("/users");
    await login.end();
    const ended = await login.fetch("/me");
    return [user.username, again.sessions.length, failed.status, (await failed.json()).error,
            failed.headers.get("X-Request-Id") !== null, ended.status];
}
"""
STATUS_OF = (
    "async (url) => { try { return (await fetch(url)).status } catch (e) { return e.name } }"
)


class _Site(BaseHTTPRequestHandler):
    """A page with the script, and the policy for its service."""

    service = ""

    def do_GET(self) -> None:
        is_script = self.path == "/login.js"
        body = SCRIPT if is_script else "<!doctype html><script src=login.js></script>"
        self.send_response(200)
        self.send_header("Content-Type", "text/javascript" if is_script else "text/html")
        policy = POLICY.replace("https://login.example.org", self.service)
        self.send_header("Content-Security-Policy", policy)
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - its name there
        pass


@contextmanager
def site() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Site) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@contextmanager
def visiting(browser: Browser, url: str) -> Iterator[Page]:
    with browser.new_context() as context:
        page = context.new_page()
        page.set_default_timeout(30_000)
        page.goto(url)
        yield page


def test_a_page_of_an_allowed_origin_logs_in_and_others_cannot(
    browser: Browser, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (
        site() as allowed,
        site() as other,
        serving(f"sqlite:///{tmp_path}/hourpass.db", CORS_ORIGINS=allowed) as service,
    ):
        monkeypatch.setattr(_Site, "service", service)
        httpx.post(f"{service}/register-user", json=LANCELOT).raise_for_status()
        arguments = [service, LANCELOT["username"], LANCELOT["password"]]
        with visiting(browser, allowed) as page:
            found = page.evaluate(LOG_IN, arguments)
            stored = page.evaluate("JSON.stringify([localStorage, sessionStorage])")
        assert found == ["lancelot", 1, 403, "insufficient_scope", True, 401]
        assert "eyJ" not in stored
        with visiting(browser, other) as page:
            assert page.evaluate(STATUS_OF, f"{service}/healthz") == "TypeError"
            assert page.evaluate(STATUS_OF, f"{service}/.well-known/jwks.json") == 200
            with pytest.raises(Exception, match="Failed to fetch"):
                page.evaluate(LOG_IN, arguments)
