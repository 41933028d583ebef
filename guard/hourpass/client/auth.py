"""Logs a program in to an API that accepts Hourpass tokens: one `auth` for httpx, httpx2, requests.

Decides which requests get a token and which are repeated; token_source.py gets the tokens.
"""

import re
import sys
from collections.abc import AsyncGenerator, Callable, Generator, Iterable
from importlib import import_module
from types import ModuleType, TracebackType
from typing import TYPE_CHECKING, Any, NoReturn, Self, TypeVar
from urllib.parse import urlsplit

from hourpass.client.token_endpoint import Connector
from hourpass.client.token_source import TokenSource
from hourpass.clock import monotonic as running_time
from hourpass.event_loops import run_in_thread
from hourpass.http.tls import Cert, Tls, Verify
from hourpass.http.transports import Transport
from hourpass.http.urls import ProxyUrl, ServiceUrl, is_loopback

# Bodies up to this size are kept in memory, so that the request can be repeated.
MAX_KEPT_BODY = 1 << 20

_Request = TypeVar("_Request")

_INVALID_TOKEN = re.compile(r'\berror="?invalid_token\b')


def _auth_bases() -> tuple[type, ...]:
    """The class Auth of httpx and of httpx2, where they are installed: each calls the flows below
    only for instances of its own."""
    bases = []
    for library in ("httpx", "httpx2"):
        try:
            bases.append(import_module(library).Auth)
        except ModuleNotFoundError:
            continue
    return tuple(bases) or (object,)


if TYPE_CHECKING:
    # For type checkers it is a callable that takes and returns any request, as all three accept.
    class _Auth: ...

else:
    _Auth = type("_Auth", _auth_bases(), {})


class HourpassAuth(_Auth):
    """`auth=HourpassAuth(url, username, password)` on a Client or AsyncClient of httpx or httpx2, a
    requests.Session, or a single call; one instance can serve any number of them at once. For SDKs
    that take a string there is token().

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
        verify: Verify = True,
        cert: Cert | None = None,
        proxy: str | None = None,
        transport: Transport | None = None,
    ) -> None:
        """`otp` returns a code of the second factor. It is called in its own thread whenever the
        password is sent: every hour, or once with `offline_access`.

        `allow_http` allows passwords and tokens to leave this machine unencrypted, for a private
        network. `verify`, `cert`, `proxy` and `transport` are those of Guard; they are for the
        requests to the login service alone."""
        service = ServiceUrl.parse(url)
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
        given_proxy = ProxyUrl.parse(proxy) if proxy is not None else None
        connector = Connector(service, Tls(verify, cert), given_proxy, transport)
        self._tokens = TokenSource(connector, credentials, otp, clock)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._tokens.origin!r}, {self._username!r})"

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            "A HourpassAuth contains a password, which must not be written to a pickle: "
            "create one in each worker process instead"
        )

    def token(self) -> str:
        """A valid token, for a client that takes a string. Get a new one for each request: it costs
        nothing while the last one is valid.

        Raises LoginError and ServiceUnavailableError.
        """
        return self._tokens.token()

    async def atoken(self) -> str:
        """Like token(), for asyncio and trio."""
        return await self._tokens.atoken()

    # The requests and responses are those of the library that calls.
    def sync_auth_flow(self, request: Any) -> Generator[Any, Any, None]:
        library = _library_of(request)
        self._refuse_plain_http(str(request.url))
        if _is_small(request) and isinstance(request.stream, library.SyncByteStream):
            request.read()
        token = self._tokens.token()
        response = yield _bearing(token, request)
        if _refuses(token, response) and isinstance(response.request.stream, library.ByteStream):
            fresh = self._tokens.token(refused=token)
            if fresh != token:
                yield _bearing(fresh, response.request)

    async def async_auth_flow(self, request: Any) -> AsyncGenerator[Any, Any]:
        library = _library_of(request)
        self._refuse_plain_http(str(request.url))
        if _is_small(request) and isinstance(request.stream, library.AsyncByteStream):
            await request.aread()
        token = await self._tokens.atoken()
        response = yield _bearing(token, request)
        if _refuses(token, response) and isinstance(response.request.stream, library.ByteStream):
            fresh = await self._tokens.atoken(refused=token)
            if fresh != token:
                yield _bearing(fresh, response.request)

    def __call__(self, request: _Request) -> _Request:
        """The interface of requests.auth.AuthBase."""
        prepared: Any = request
        self._refuse_plain_http(prepared.url or "")
        prepared.register_hook("response", self._repeat_if_refused)
        return _bearing(self._tokens.token(), request)

    def _repeat_if_refused(self, response: Any, **options: Any) -> Any:
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
        if parts.scheme == "http" and not self._allow_http and not is_loopback(parts.hostname):
            raise ValueError(
                "Over http, anybody on the network can read passwords and tokens: use https, "
                "or allow_http=True in a private network"
            )

    def close(self) -> None:
        """Log out. A later request logs in again."""
        self._tokens.log_out()

    async def aclose(self) -> None:
        """Like close(), for asyncio and trio."""
        await run_in_thread(self.close)

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


def _library_of(request: Any) -> ModuleType:
    """httpx or httpx2: whose request this is."""
    for base in type(request).__mro__:
        package = base.__module__.partition(".")[0]
        if package in ("httpx", "httpx2"):
            return sys.modules[package]
    raise TypeError(f"HourpassAuth does not know requests of {type(request).__module__}")


def _bearing(token: str, request: _Request) -> _Request:
    prepared: Any = request
    prepared.headers["Authorization"] = f"Bearer {token}"
    return request


def _refuses(token: str, response: Any) -> bool:
    """Whether the API responded that this token is invalid (RFC 6750, 3.1).

    After a redirect to another origin the token was not sent, so the response is not about it.
    """
    return (
        response.status_code == 401
        and response.request.headers.get("Authorization") == f"Bearer {token}"
        and _INVALID_TOKEN.search(response.headers.get("WWW-Authenticate", "")) is not None
    )


def _is_small(request: Any) -> bool:
    length = request.headers.get("Content-Length", "")
    return length.isdecimal() and int(length) <= MAX_KEPT_BODY


def _is_text(value: str) -> bool:
    """Whether it can be encoded in UTF-8. Without this check, the error would quote it."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True
