"""Logs a program in to an API that takes Hourpass tokens: one `auth` for httpx and requests.

Decides which request carries a token, and which is repeated; login.py gets the tokens.
"""

import asyncio
import re
import sys
import time
from collections.abc import AsyncGenerator, Callable, Generator, Iterable
from ipaddress import ip_address
from types import TracebackType
from typing import TYPE_CHECKING, Any, NoReturn, Self, TypeVar
from urllib.parse import urlsplit

import httpx

from hourpass.login import Login

if TYPE_CHECKING:  # optional: only users of requests have it
    import requests

# An upload up to this size is kept in memory, so that it can be sent once more if it must.
KEPT_BODY = 1 << 20

_Request = TypeVar("_Request", httpx.Request, "requests.PreparedRequest")

_INVALID_TOKEN = re.compile(r'\berror="?invalid_token\b')


def running_time() -> float:
    """Seconds of a clock that cannot be set. Where possible, it runs while the machine sleeps."""
    if sys.platform == "linux":
        return time.clock_gettime(time.CLOCK_BOOTTIME)
    return time.monotonic()


class HourpassAuth(httpx.Auth):
    """`auth=HourpassAuth(url, username, password)` on an httpx.Client, an httpx.AsyncClient, a
    requests.Session, or a single call; one instance can serve any number of them at once.

    It logs in at the first request, renews the token before it expires, and repeats a request once
    if the API calls its token invalid, unless the body was streamed. `scopes` are those that the
    token is for: all that the user has but `admin` if none is named, so that an API that is shown
    the token of an administrator cannot administer with it. `scopes=["admin"]` asks for it. With
    `offline_access` the login is a session, kept by refresh tokens. Requests raise LoginError and
    ServiceUnavailableError.

    Leaving its `with` or `async with` block, or close(), logs out. It is not to be pickled. A
    forked child logs in anew.
    """

    def __init__(  # noqa: PLR0913 - five of them are rare, and can only be named
        self,
        url: str,
        username: str,
        password: str,
        *,
        scopes: Iterable[str] = (),
        otp: Callable[[], str] | None = None,
        allow_http: bool = False,
        clock: Callable[[], float] = running_time,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        """`otp` gives the code of a second factor whenever the password is sent: each hour, or with
        `offline_access` once. It is called in its own thread.

        `allow_http` lets passwords and tokens leave this machine unencrypted, for a network that
        is private. `transport` carries logins, as that of an httpx.Client."""
        service = httpx.URL(url)
        if service.scheme not in ("http", "https") or not service.host:
            raise ValueError("The URL of the login service must begin with https:// or http://")
        if service.userinfo:
            raise ValueError("Name and password are arguments, not part of the URL")
        credentials = {"username": username, "password": password}
        if scope := " ".join([scopes] if isinstance(scopes, str) else scopes):
            credentials["scope"] = scope
        if "admin" not in scope.split():
            # An older service ignores this, as any parameter that it does not know (RFC 6749, 3.2).
            credentials["exclude_scope"] = "admin"
        if not all(map(_is_text, credentials.values())):
            raise ValueError("Half a surrogate pair cannot be sent")
        self._allow_http = allow_http
        self._refuse_plain_http(str(service))
        self._username = username
        self._login = Login(service, credentials, otp, clock, transport)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._login.origin!r}, {self._username!r})"

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            "A HourpassAuth holds a password, which a pickle would write down: "
            "make one in each worker process instead"
        )

    def sync_auth_flow(
        self, request: httpx.Request
    ) -> Generator[httpx.Request, httpx.Response, None]:
        self._refuse_plain_http(str(request.url))
        if _is_small(request) and isinstance(request.stream, httpx.SyncByteStream):
            request.read()
        token = self._login.token()
        response = yield _bearing(token, request)
        if _refuses(token, response) and _is_repeatable(response.request):
            fresh = self._login.token(refused=token)
            if fresh != token:
                yield _bearing(fresh, response.request)

    async def async_auth_flow(
        self, request: httpx.Request
    ) -> AsyncGenerator[httpx.Request, httpx.Response]:
        self._refuse_plain_http(str(request.url))
        if _is_small(request) and isinstance(request.stream, httpx.AsyncByteStream):
            await request.aread()
        token = await self._login.atoken()
        response = yield _bearing(token, request)
        if _refuses(token, response) and _is_repeatable(response.request):
            fresh = await self._login.atoken(refused=token)
            if fresh != token:
                yield _bearing(fresh, response.request)

    def __call__(self, request: "requests.PreparedRequest") -> "requests.PreparedRequest":
        """What requests calls an auth."""
        self._refuse_plain_http(request.url or "")
        request.register_hook("response", self._repeat_if_refused)  # type: ignore[no-untyped-call] # its stubs say nothing
        return _bearing(self._login.token(), request)

    def _repeat_if_refused(self, response: "requests.Response", **options: Any) -> Any:
        request = response.request
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        repeatable = request.body is None or isinstance(request.body, str | bytes)
        if scheme != "Bearer" or not _refuses(token, response) or not repeatable:
            return response
        fresh = self._login.token(refused=token)
        if fresh == token:
            return response
        response.content  # noqa: B018 - read to its end, so that the connection can be used again
        response.close()
        # Past the hooks, therefore never again. requests keeps the adapter here, for its own auths.
        repeated = response.connection.send(_bearing(fresh, request), **options)
        repeated.history.append(response)
        return repeated

    def _refuse_plain_http(self, url: str) -> None:
        parts = urlsplit(url)
        if parts.scheme == "http" and not self._allow_http and not _is_loopback(parts.hostname):
            raise ValueError(
                "Over http anybody on the way reads passwords and tokens: use https, "
                "or allow_http=True within a network of your own"
            )

    def close(self) -> None:
        """Log out. A request made afterwards logs in again."""
        self._login.end()

    async def aclose(self) -> None:
        """As close(), for asyncio."""
        await asyncio.to_thread(self.close)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()


def _bearing(token: str, request: _Request) -> _Request:
    request.headers["Authorization"] = f"Bearer {token}"
    return request


def _refuses(token: str, response: "httpx.Response | requests.Response") -> bool:
    """Whether the API calls this token invalid (RFC 6750, 3.1).

    After a redirect to another origin the token has not been sent, and the answer is not about it.
    """
    return (
        response.status_code == 401
        and response.request.headers.get("Authorization") == f"Bearer {token}"
        and _INVALID_TOKEN.search(response.headers.get("WWW-Authenticate", "")) is not None
    )


def _is_small(request: httpx.Request) -> bool:
    length = request.headers.get("Content-Length", "")
    return length.isdecimal() and int(length) <= KEPT_BODY


def _is_repeatable(request: httpx.Request) -> bool:
    return isinstance(request.stream, httpx.ByteStream)


def _is_loopback(host: str | None) -> bool:
    try:
        return host == "localhost" or ip_address(host or "").is_loopback
    except ValueError:  # a name
        return False


def _is_text(value: str) -> bool:
    """Whether it has a form in UTF-8; the error that says so elsewhere would quote it."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True
