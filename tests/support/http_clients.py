"""How programs use HourpassAuth, with each library, and a service that keeps the tests' clock."""

import asyncio
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl

import httpx
import requests

from hourpass import HourpassAuth
from tests.support.settings import Clock
from tests.support.users import ARTHUR, LANCELOT, Person, bearer

Call = Callable[..., Any]


def by_httpx(auth: HourpassAuth, method: str, url: str, **options: Any) -> httpx.Response:
    with httpx.Client(auth=auth, follow_redirects=True, verify=False) as client:
        return client.request(method, url, **options)


def by_async_httpx(auth: HourpassAuth, method: str, url: str, **options: Any) -> httpx.Response:
    """In an event loop of its own."""

    async def call() -> httpx.Response:
        async with httpx.AsyncClient(auth=auth, follow_redirects=True, verify=False) as client:
            return await client.request(method, url, **options)

    return asyncio.run(call())


def by_requests(auth: HourpassAuth, method: str, url: str, **options: Any) -> requests.Response:
    with requests.Session() as session:
        session.auth = auth
        return session.request(method, url, **options)


CALLS: list[Call] = [by_httpx, by_async_httpx, by_requests]


class RecordingTransport(httpx.HTTPTransport):
    """Sends each request, and remembers it. While `is_offline`, it cannot connect."""

    def __init__(self) -> None:
        super().__init__(verify=False)  # reading the certificates takes longer than a login
        self.sent: list[dict[str, str]] = []
        self.is_offline = False

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        form = dict(parse_qsl(request.read().decode()))
        self.sent.append({"path": request.url.path, **form})
        if self.is_offline:
            raise httpx.ConnectError("No route to Camelot", request=request)
        return super().handle_request(request)

    def grants(self) -> list[str]:
        return [form["grant_type"] for form in self.sent if form["path"] == "/token"]


@dataclass
class ClientService:
    """A service with the tests' clock, a user of this test alone, and the transport of the user's
    program to the service."""

    client: httpx.Client
    clock: Clock
    user: Person
    user_id: int
    transport: RecordingTransport

    @property
    def url(self) -> str:
        return str(self.client.base_url).rstrip("/")

    def auth(
        self,
        password: str = LANCELOT["password"],
        scopes: Iterable[str] = (),
        otp: Callable[[], str] | None = None,
    ) -> HourpassAuth:
        """Its clock starts at zero: only time differences may matter."""
        began = self.clock.now

        def clock() -> float:
            return (self.clock.now - began).total_seconds()

        name = self.user["username"]
        return HourpassAuth(
            self.url, name, password, scopes=scopes, otp=otp, clock=clock, transport=self.transport
        )

    def as_admin(self, method: str, path: str) -> None:
        token = self.client.post("/token", json=ARTHUR).json()["token"]
        answer = self.client.request(method, path, headers=bearer(token))
        assert answer.status_code == 200, answer.text

    def sessions(self, token: str) -> int:
        answer = self.client.get("/me/sessions", headers=bearer(token))
        return len(answer.json()["sessions"])


def token_of(auth: HourpassAuth) -> str:
    """The current token."""
    held = auth._tokens._held
    assert held
    return held.value


def settle(auth: HourpassAuth) -> None:
    """Wait until a renewal in the background has ended."""
    deadline = time.monotonic() + 10
    while auth._tokens._renewal:
        assert time.monotonic() < deadline
        time.sleep(0.001)
