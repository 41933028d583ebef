"""Logs a program in to an API that accepts Hourpass tokens: one `auth` for httpx and requests.

Decides which requests get a token and which are repeated; token_source.py gets the tokens.
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

from hourpass.client.token_source import TokenSource

if TYPE_CHECKING:  # optional: only users of requests have it
    import requests

# Bodies up to this size are kept in memory, so that the request can be repeated.
MAX_KEPT_BODY = 1 << 20

_Request = TypeVar("_Request", httpx.Request, "requests.PreparedRequest")

_INVALID_TOKEN = re.compile(r'\berror="?invalid_token\b')


def running_time() -> float:
    """Seconds on a clock that nobody can set. On Linux, it runs while the machine sleeps."""
    if sys.platform == "linux":
        return time.clock_gettime(time.CLOCK_BOOTTIME)
    return time.monotonic()


class HourpassAuth(httpx.Auth):
    """`auth=HourpassAuth(url, username, password)` on an httpx.Client, an httpx.AsyncClient, a
    requests.Session, or a single call; one instance can serve any number of them at once.

    It logs in at the first request and renews the token before it expires. If the API responds that
    the token is invalid, it repeats the request once, unless the body was streamed. Requests raise
    LoginError and ServiceUnavailableError.

    `scopes` are requested for the token. By default it gets all scopes of the user except `admin`,
    so that an API cannot use an administrator's token to administer users; `scopes=["admin"]`
    requests that one. With `offline_access`, the login is a session with refresh tokens.

    close(), or the end of a `with` or `async with` block, logs out. It cannot be pickled. A forked
    child logs in again.
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
        """`otp` returns a code of the second factor. It is called in its own thread whenever the
        password is sent: every hour, or once with `offline_access`.

        `allow_http` allows passwords and tokens to leave this machine unencrypted, for a private
        network. `transport` is that of the httpx.Client that logs in."""
        service = httpx.URL(url)
        if service.scheme not in ("http", "https") or not service.host:
            raise ValueError("The URL of the login service must begin with https:// or http://")
        if service.userinfo:
            raise ValueError("Name and password are arguments, not part of the URL")
        credentials = {"username": username, "password": password}
        if scope := " ".join([scopes] if isinstance(scopes, str) else scopes):
            credentials["scope"] = scope
        if "admin" not in scope.split():
            # An older service ignores unknown parameters (RFC 6749, 3.2).
            credentials["exclude_scope"] = "admin"
        if not all(map(_is_text, credentials.values())):
            raise ValueError("Half a surrogate pair cannot be sent")
        self._allow_http = allow_http
        self._refuse_plain_http(str(service))
        self._username = username
        self._tokens = TokenSource(service, credentials, otp, clock, transport)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._tokens.origin!r}, {self._username!r})"

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            "A HourpassAuth contains a password, which must not be written to a pickle: "
            "create one in each worker process instead"
        )

    def sync_auth_flow(
        self, request: httpx.Request
    ) -> Generator[httpx.Request, httpx.Response, None]:
        self._refuse_plain_http(str(request.url))
        if _is_small(request) and isinstance(request.stream, httpx.SyncByteStream):
            request.read()
        token = self._tokens.token()
        response = yield _bearing(token, request)
        if _refuses(token, response) and _is_repeatable(response.request):
            fresh = self._tokens.token(refused=token)
            if fresh != token:
                yield _bearing(fresh, response.request)

    async def async_auth_flow(
        self, request: httpx.Request
    ) -> AsyncGenerator[httpx.Request, httpx.Response]:
        self._refuse_plain_http(str(request.url))
        if _is_small(request) and isinstance(request.stream, httpx.AsyncByteStream):
            await request.aread()
        token = await self._tokens.atoken()
        response = yield _bearing(token, request)
        if _refuses(token, response) and _is_repeatable(response.request):
            fresh = await self._tokens.atoken(refused=token)
            if fresh != token:
                yield _bearing(fresh, response.request)

    def __call__(self, request: "requests.PreparedRequest") -> "requests.PreparedRequest":
        """The interface of requests.auth.AuthBase."""
        self._refuse_plain_http(request.url or "")
        request.register_hook("response", self._repeat_if_refused)  # type: ignore[no-untyped-call] # its stubs say nothing
        return _bearing(self._tokens.token(), request)

    def _repeat_if_refused(self, response: "requests.Response", **options: Any) -> Any:
        request = response.request
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        repeatable = request.body is None or isinstance(request.body, str | bytes)
        if scheme != "Bearer" or not _refuses(token, response) or not repeatable:
            return response
        fresh = self._tokens.token(refused=token)
        if fresh == token:
            return response
        response.content  # noqa: B018 - read to the end, so that the connection can be reused
        response.close()
        # Without the hooks, so that it is repeated only once. requests keeps the adapter here for
        # its own auth classes.
        repeated = response.connection.send(_bearing(fresh, request), **options)
        repeated.history.append(response)
        return repeated

    def _refuse_plain_http(self, url: str) -> None:
        parts = urlsplit(url)
        if parts.scheme == "http" and not self._allow_http and not _is_loopback(parts.hostname):
            raise ValueError(
                "Over http, anybody on the network can read passwords and tokens: use https, "
                "or allow_http=True in a private network"
            )

    def close(self) -> None:
        """Log out. A later request logs in again."""
        self._tokens.log_out()

    async def aclose(self) -> None:
        """Like close(), for asyncio."""
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
    """Whether the API responded that this token is invalid (RFC 6750, 3.1).

    After a redirect to another origin the token was not sent, so the response is not about it.
    """
    return (
        response.status_code == 401
        and response.request.headers.get("Authorization") == f"Bearer {token}"
        and _INVALID_TOKEN.search(response.headers.get("WWW-Authenticate", "")) is not None
    )


def _is_small(request: httpx.Request) -> bool:
    length = request.headers.get("Content-Length", "")
    return length.isdecimal() and int(length) <= MAX_KEPT_BODY


def _is_repeatable(request: httpx.Request) -> bool:
    return isinstance(request.stream, httpx.ByteStream)


def _is_loopback(host: str | None) -> bool:
    try:
        return host == "localhost" or ip_address(host or "").is_loopback
    except ValueError:  # a name
        return False


def _is_text(value: str) -> bool:
    """Whether it can be encoded in UTF-8. Without this check, the error would quote it."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True
