"""The page at /docs, in a real browser without internet: log in there, then call what is protected.

On SQLite only: the page knows no database.
"""

import shutil
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
from playwright.sync_api import ConsoleMessage, Page, Route, expect, sync_playwright

from tests.authenticator import Authenticator
from tests.conftest import serving
from tests.people import LANCELOT, bearer
from tests.settings import Clock

# A browser that stays at home and needs no sandbox of its own, so that it also runs as root.
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


class Visit:
    """An open page, the requests that would have left this machine, and the console's errors."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.strangers: list[str] = []
        self.errors: list[str] = []
        page.set_default_timeout(10_000)
        page.route("**/*", self._only_loopback)
        page.on("console", self._note_errors)
        page.on("pageerror", lambda error: self.errors.append(str(error)))

    def _note_errors(self, line: ConsoleMessage) -> None:
        if line.type == "error":  # a breach of the content security policy is one
            self.errors.append(line.text)

    def _only_loopback(self, route: Route) -> None:
        if urlsplit(route.request.url).hostname == "127.0.0.1":
            route.continue_()
        else:
            self.strangers.append(route.request.url)
            route.abort()


@pytest.fixture
def visit() -> Iterator[Visit]:
    browser_path = shutil.which("chromium") or shutil.which("chromium-browser")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=browser_path, args=ARGUMENTS)
        yield Visit(browser.new_page())
        browser.close()


def test_log_in_on_the_docs_page_then_call_what_is_protected(visit: Visit, tmp_path: Path) -> None:
    page = visit.page
    with serving(f"sqlite:///{tmp_path}/hourpass.db") as base_url:
        httpx.post(f"{base_url}/register-user", json=LANCELOT)
        page.goto(f"{base_url}/docs")
        authorize(page)
        dialog = page.locator(".modal-ux")
        expect(dialog).to_contain_text("Logout")
        dialog.locator(".modal-btn.btn-done").click()
        stored = page.evaluate("JSON.stringify([localStorage, sessionStorage])")
        assert LANCELOT["password"] not in stored
        assert "eyJ" not in stored
        assert_can_call_what_is_protected(page)
        page.screenshot(path=tmp_path / "docs.png", full_page=True)
    assert visit.strangers == []
    assert visit.errors == []


def test_log_in_with_a_second_factor_as_the_page_says(visit: Visit, tmp_path: Path) -> None:
    page = visit.page
    with serving(f"sqlite:///{tmp_path}/hourpass.db") as base_url:
        httpx.post(f"{base_url}/register-user", json=LANCELOT)
        authenticator = enrolled(base_url)
        page.goto(f"{base_url}/docs")
        authorize(page)
        dialog = page.locator(".modal-ux")
        expect(dialog).to_contain_text("type its code as client_secret")
        expect(dialog.locator(".errors")).to_contain_text("A second factor is needed")
        dialog.locator("#client_secret_password").fill(authenticator.code())
        with page.expect_request("**/token") as sent:
            authorize(page)
        assert authenticator.code() not in sent.value.url
        expect(dialog).to_contain_text("Logout")
        dialog.locator(".modal-btn.btn-done").click()
        assert_can_call_what_is_protected(page)
    assert visit.strangers == []
    assert len(visit.errors) == 1  # the refusal without a code, which the browser notes as well
    assert "400" in visit.errors[0]


def authorize(page: Page) -> None:
    dialog = page.locator(".modal-ux")
    if not dialog.is_visible():
        page.get_by_role("button", name="Authorize").first.click()
    dialog.locator("#oauth_username").fill(LANCELOT["username"])
    dialog.locator("#oauth_password").fill(LANCELOT["password"])
    dialog.get_by_role("button", name="Apply given OAuth2 credentials").click()


def assert_can_call_what_is_protected(page: Page) -> None:
    call = page.locator("#operations-Users-readOwnProfile")
    call.locator(".opblock-summary-control").click()
    execute = call.get_by_role("button", name="Execute")
    if not execute.is_visible():  # the page may be set to open ready to be tried out
        call.get_by_role("button", name="Try it out").click()
    execute.click()
    answer = call.locator(".live-responses-table .response")
    expect(answer.locator(".response-col_status")).to_contain_text("200")
    expect(answer).to_contain_text(f'"username": "{LANCELOT["username"]}"')


def enrolled(base_url: str) -> Authenticator:
    """Lancelot's app, which stands still at a moment whose code he has not used yet."""
    token = httpx.post(f"{base_url}/token", json=LANCELOT).json()["token"]
    path, headers = f"{base_url}/me/second-factor", bearer(token)
    begun = httpx.post(path, json={"password": LANCELOT["password"]}, headers=headers).json()
    clock = Clock()
    clock.now = datetime.now(UTC)
    authenticator = Authenticator(begun["otpauth_uri"], clock)
    confirmed = httpx.post(f"{path}/confirm", json={"otp": authenticator.code(-1)}, headers=headers)
    assert confirmed.status_code == 200, confirmed.text
    return authenticator
