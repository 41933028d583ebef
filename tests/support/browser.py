"""A real browser without internet, and what a reader of the docs page does in it."""

import shutil
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import (
    Browser,
    ConsoleMessage,
    Locator,
    Page,
    Route,
    expect,
    sync_playwright,
)

from tests.support.users import Person

expect.set_options(timeout=30_000)  # the page is large, and the machine may be busy

# Without requests to the internet, and without a sandbox, so that it also runs as root.
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
    """An open page, the URLs of other machines that it requested, and the console's errors."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.outside: list[str] = []
        self.errors: list[str] = []
        page.set_default_timeout(30_000)
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
            self.outside.append(route.request.url)
            route.abort()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    path = shutil.which("chromium") or shutil.which("chromium-browser")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture
def visit(browser: Browser) -> Iterator[Visit]:
    """With new storage and a new cache."""
    with browser.new_context() as context:
        yield Visit(context.new_page())


def opened(page: Page, name: str) -> Locator:
    """The operation with this id, opened."""
    call = page.locator(f"[id$=-{name}]")
    if not call.locator(".opblock-body").is_visible():
        call.locator(".opblock-summary-control").first.click()
    expect(call.locator(".opblock-body")).to_be_visible()
    return call


def authorize(page: Page, person: Person) -> None:
    dialog = page.locator(".modal-ux")
    if not dialog.is_visible():
        page.get_by_role("button", name="Authorize").first.click()
    dialog.locator("#oauth_username").fill(person["username"])
    dialog.locator("#oauth_password").fill(person["password"])
    dialog.get_by_role("button", name="Apply given OAuth2 credentials").click()


def close(dialog: Locator) -> None:
    dialog.locator(".modal-btn.btn-done").first.click()


def assert_can_call_what_is_protected(page: Page, person: Person) -> None:
    call = opened(page, "readOwnProfile")
    call.get_by_role("button", name="Execute").click()
    answer = call.locator(".live-responses-table .response")
    expect(answer).to_contain_text(f'"username": "{person["username"]}"')
    expect(answer.locator(".response-col_status")).to_contain_text("200")
