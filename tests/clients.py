"""How a program uses HourpassAuth: with httpx, with asyncio, with requests. And what it sent."""

import asyncio
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qsl

import httpx
import requests

from hourpass import HourpassAuth

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


class Line(httpx.HTTPTransport):
    """The line to the login service: it really sends, remembers what, and can be cut."""

    def __init__(self) -> None:
        super().__init__(verify=False)  # reading the certificates takes longer than a login
        self.sent: list[dict[str, str]] = []
        self.is_cut = False

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        form = dict(parse_qsl(request.read().decode()))
        self.sent.append({"path": request.url.path, **form})
        if self.is_cut:
            raise httpx.ConnectError("No route to Camelot", request=request)
        return super().handle_request(request)

    def grants(self) -> list[str]:
        return [form["grant_type"] for form in self.sent if form["path"] == "/token"]
