"""The pages at / and /docs, in a real browser without internet.

On SQLite only, because the pages do not use the database.
"""

from collections.abc import Iterator
from datetime import UTC, datetime

import httpx
import pytest
from playwright.sync_api import Page, ViewportSize, expect

from tests.support.authenticator import Authenticator
from tests.support.browser import (
    Visit,
    assert_can_call_what_is_protected,
    authorize,
    browser,
    close,
    opened,
    visit,
)
from tests.support.service_process import serving
from tests.support.settings import Clock
from tests.support.users import GALAHAD, LANCELOT, Person, bearer

__all__ = ["browser", "visit"]

LAPTOP: ViewportSize = {"width": 1280, "height": 800}
PHONE: ViewportSize = {"width": 390, "height": 844}


@pytest.fixture(scope="module")
def base_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with serving(f"sqlite:///{tmp_path_factory.mktemp('docs')}/hourpass.db") as base_url:
        for person in (LANCELOT, GALAHAD):
            httpx.post(f"{base_url}/register-user", json=person).raise_for_status()
        yield base_url


def test_the_start_page_leads_to_the_docs_which_log_in_and_call_what_is_protected(
    visit: Visit, base_url: str
) -> None:
    """Once as a user without a second factor, then, after a logout, as one with a second factor."""
    page = visit.page
    page.goto(base_url)
    page.get_by_role("link", name="API documentation").click()
    authorize(page, LANCELOT)
    dialog = page.locator(".modal-ux")
    expect(dialog).to_contain_text("Logout")
    close(dialog)
    stored = page.evaluate("JSON.stringify([localStorage, sessionStorage])")
    assert LANCELOT["password"] not in stored
    assert "eyJ" not in stored
    assert_can_call_what_is_protected(page, LANCELOT)
    assert visit.errors == []

    authenticator = enrolled(base_url, GALAHAD)
    page.get_by_role("button", name="Authorize").first.click()
    dialog.get_by_role("button", name="Remove authorization").click()  # shown as Logout
    authorize(page, GALAHAD)
    expect(dialog).to_contain_text("If you have a second factor, also enter its current code")
    expect(dialog.locator(".errors")).to_contain_text("Second factor required")
    dialog.locator("#client_secret_password").fill(authenticator.code())
    with page.expect_request("**/token") as sent:
        authorize(page, GALAHAD)
    assert authenticator.code() not in sent.value.url
    expect(dialog).to_contain_text("Logout")
    close(dialog)
    assert_can_call_what_is_protected(page, GALAHAD)
    assert visit.outside == []
    assert len(visit.errors) == 1  # the refusal of the login without a code
    assert "400" in visit.errors[0]


def test_what_the_docs_page_shows(visit: Visit, base_url: str, subtests: pytest.Subtests) -> None:
    page = visit.page
    page.set_viewport_size(LAPTOP)
    page.goto(f"{base_url}/docs")
    expect(page.locator("#operations-My_account-readOwnProfile")).to_be_visible()
    with subtests.test("no choice of servers"):
        expect(page.locator(".servers")).to_be_hidden()
    with subtests.test("administration and groups start collapsed, and open by a click"):
        expect(page.locator("[data-tag=Groups]")).to_be_visible()
        expect(page.locator("#operations-Groups-listGroups")).to_have_count(0)
        administration = page.locator("#operations-Administration-listUsers")
        expect(administration).to_have_count(0)
        page.locator("[data-tag=Administration]").click()
        expect(administration).to_be_visible()
    with subtests.test("an error's example, once it is opened"):
        table = opened(page, "registerUser").locator(".responses-table")
        expect(table).not_to_contain_text('"user_id": 4')
        table.get_by_role("button", name="409").click()
        expect(table).to_contain_text('"user_id": 4')
    for name in ("issueToken", "changeUser", "readAuditLog"):
        with subtests.test(f"{name} fits on the screen of a laptop"):
            box = opened(page, name).bounding_box()
            assert box
            assert box["height"] <= LAPTOP["height"]
    with subtests.test("only the fields of the dialog that a user fills in"):
        page.get_by_role("button", name="Authorize").first.click()
        shown = page.locator(".modal-ux").locator("input:visible, select:visible")
        ids = ["oauth_username", "oauth_password", "client_secret_password"]
        expect(shown.nth(2)).to_be_visible()
        assert [field.get_attribute("id") for field in shown.all()] == ids
        page.locator(".modal-ux .close-modal").click()
    page.set_viewport_size(PHONE)
    with subtests.test("nothing of it is wider than the screen of a phone"):
        assert width(page) <= PHONE["width"]
    with subtests.test("nor is anything of the start page"):
        page.goto(base_url)
        assert width(page) <= PHONE["width"]


def width(page: Page) -> int:
    pixels: int = page.evaluate("document.documentElement.scrollWidth")
    return pixels


ACCEPT = {
    "*/*": "text/html",
    "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8": "text/html",
    "application/json": "application/json",
    "Application/JSON; q=0.5": "application/json",
    "text/html;q=0.4, application/json;q=0.5": "application/json",
    "text/html;q=0.5, application/json;q=0.4": "text/html",
    "application/json;q=0": "text/html",
    "application/json;q=x, ;, ;q": "text/html",
}


def test_the_start_page_is_json_for_clients_that_prefer_it(
    base_url: str, subtests: pytest.Subtests
) -> None:
    with httpx.Client(base_url=base_url, verify=False) as client:
        for accept, media_type in ACCEPT.items():
            with subtests.test(accept):
                response = client.get("/", headers={"Accept": accept})
                assert response.status_code == 200
                assert response.headers["Content-Type"].partition(";")[0] == media_type
                assert response.headers["Vary"] == "Accept"
        body = client.get("/", headers={"Accept": "application/json"}).json()
        assert body["name"] == "Hourpass"
        for link in ("docs", "openapi"):
            assert client.get(body[link]).status_code == 200


@pytest.mark.parametrize("path", ["/", "/docs"])
def test_the_pages_have_safe_headers(base_url: str, path: str) -> None:
    headers = httpx.get(f"{base_url}{path}").headers
    policy = dict(
        part.strip().split(" ", 1) for part in headers["Content-Security-Policy"].split(";")
    )
    assert "'unsafe-inline'" not in policy.get("script-src", policy["default-src"])
    for directive in ("frame-ancestors", "base-uri", "form-action"):
        assert policy[directive] == "'none'"
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Referrer-Policy"] == "no-referrer"


def enrolled(base_url: str, person: Person) -> Authenticator:
    """The person's authenticator app. Its clock stands still, so its code has not been used yet."""
    token = httpx.post(f"{base_url}/token", json=person).json()["token"]
    path, headers = f"{base_url}/me/second-factor", bearer(token)
    begun = httpx.post(path, json={"password": person["password"]}, headers=headers).json()
    clock = Clock()
    clock.now = datetime.now(UTC)
    authenticator = Authenticator(begun["otpauth_uri"], clock)
    confirmed = httpx.post(f"{path}/confirm", json={"otp": authenticator.code(-1)}, headers=headers)
    assert confirmed.status_code == 200, confirmed.text
    return authenticator
