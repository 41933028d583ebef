"""Verifies the tokens of a Hourpass service in the API's own process.

The guard looks up tokens that it has seen before in memory, and verifies the signature of new ones.
Neither needs a request to the service: a thread follows its keys and revocations
(revocation_feed.py). Only if the service signs with a shared secret, the guard asks it about each
new token. API keys are exchanged for tokens at the service (key_exchange.py).
"""

import _thread
import logging
import os
import weakref
from collections.abc import Callable, Iterable
from contextlib import suppress
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, Self, Unpack

from hourpass import clock as running_clock
from hourpass.api_keys import is_api_key
from hourpass.errors import GuardError, ServiceUnavailableError
from hourpass.event_loops import run_in_thread
from hourpass.guard.asgi import ASGIApp
from hourpass.guard.bearer import Credentials, parse_authorization
from hourpass.guard.key_exchange import KeyExchange
from hourpass.guard.middleware import Middleware, MiddlewareOptions
from hourpass.guard.networks import require_network
from hourpass.guard.path_scopes import ScopesByPath
from hourpass.guard.public_paths import PublicPaths
from hourpass.guard.refusals import Refusal, RefusalBody, Refusals
from hourpass.guard.requirements import require_scopes, visible_names
from hourpass.guard.revocation_feed import OUTAGE_NOTICED_SECONDS, Clock, RevocationFeed
from hourpass.guard.service_client import ServiceClient
from hourpass.guard.token_checker import TokenChecker
from hourpass.guard.token_verifier import Verified
from hourpass.http.tls import Cert, Tls, Verify
from hourpass.http.transports import Transport, is_shared, new_client, without_shared
from hourpass.http.urls import ProxyUrl, ServiceUrl, is_loopback
from hourpass.user import User

if TYPE_CHECKING:
    from hourpass.guard.fastapi_dependency import RouteDependency
else:
    try:
        from hourpass.guard.fastapi_dependency import RouteDependency
    except ModuleNotFoundError as missing:
        if missing.name not in ("fastapi", "starlette"):
            raise

        class RouteDependency:  # FastAPI is optional
            """Without FastAPI, no route depends on the guard."""

            def __init__(self, scheme_name: str, api_key_headers: Iterable[str]) -> None: ...


TIMEOUT = timedelta(seconds=5)
MAX_TRUST = timedelta(minutes=60)  # a token's lifetime, unless TOKEN_MINUTES is changed

_log = logging.getLogger("hourpass.guard")


class Guard(RouteDependency):
    """`Depends(guard)` in FastAPI, `guard.middleware` around any ASGI app, `guard.check(token)`
    everywhere else. Opens no connection and starts no thread before the first check.

    `url` is the URL of the service; the guard trusts it. `issuer` pins the issuer in the service's
    metadata. If the service is unreachable, `on_outage="refuse"` refuses all tokens after
    OUTAGE_NOTICED_SECONDS. `"trust"` uses the known keys and revocations for `trust_for`, and
    accepts tokens that are revoked meanwhile.

    `api_key_headers` are headers besides `Authorization` whose value is an API key, such as
    `x-api-key` of Anthropic's clients and `api-key` of Azure's.

    `timeout` is how long a check may wait for the service's first answer. `patience` is a
    deprecated alias of it.

    `verify` is a file or directory of certificate authorities, or an ssl.SSLContext, in place of
    the system's authorities. `cert` is the file of a client certificate with its private key, or a
    file of each. `proxy` is an HTTP proxy; the environment's proxies are not used.

    `transport` replaces the guard's own connections: a function that creates a transport of httpx
    or httpx2, or a transport. The guard does not close a transport, and does not use it in a forked
    child.
    """

    def __init__(  # noqa: PLR0913 - one for each thing to decide, and all have a default
        self,
        url: str,
        *,
        audience: str = "ml-api",
        issuer: str | None = None,
        on_outage: Literal["refuse", "trust"] = "refuse",
        trust_for: timedelta = timedelta(minutes=10),
        timeout: timedelta = TIMEOUT,
        patience: timedelta | None = None,
        verify: Verify = True,
        cert: Cert | None = None,
        proxy: str | None = None,
        transport: Transport | None = None,
        clock: Clock = running_clock,
        scheme_name: str = "Hourpass",
        on_refusal: RefusalBody | None = None,
        html_refusals: bool = False,
        api_key_headers: Iterable[str] = (),
    ) -> None:
        self._credentials = Credentials(api_key_headers)
        super().__init__(scheme_name, self._credentials.api_key_headers)
        if patience is not None:
            timeout = patience
        if on_outage not in ("refuse", "trust"):
            raise ValueError('on_outage is "refuse" or "trust"')
        noticed = timedelta(seconds=OUTAGE_NOTICED_SECONDS)
        if not noticed <= trust_for <= MAX_TRUST:
            raise ValueError(f"trust_for lies between {noticed} and {MAX_TRUST}")
        self._arguments: dict[str, Any] = {
            "url": url,
            "audience": audience,
            "issuer": issuer,
            "on_outage": on_outage,
            "trust_for": trust_for,
            "timeout": timeout,
            "verify": verify,
            "cert": cert,
            "proxy": proxy,
            "transport": None if is_shared(transport) else transport,
            "scheme_name": scheme_name,
            "on_refusal": on_refusal,
            "html_refusals": html_refusals,
            "api_key_headers": self._credentials.api_key_headers,
        }
        self.url = ServiceUrl.parse(url)
        self.audience = audience
        self.issuer = issuer
        self.fresh_for = trust_for if on_outage == "trust" else noticed
        self.timeout = timeout.total_seconds()
        self._tls = Tls(verify, cert)
        self._proxy = ProxyUrl.parse(proxy) if proxy is not None else None
        # Read before the first request to the service, and again after close().
        self.transport = transport
        self.clock = clock
        self._refusals = Refusals(on_refusal, html=html_refusals)
        self._dropped: weakref.finalize[..., Any] | None = None
        self._reset()
        _guards.add(self)

    def __reduce__(self) -> tuple[Callable[[], Self], tuple[()]]:
        """For pickle. The copy has its own thread, no `clock`, and no `transport` except a function
        that creates one."""
        return partial(type(self), **self._arguments), ()

    def check(self, token: str, *scopes: str, ip_address: str | None = None) -> User:
        """The user of a token or an API key whose scopes cover all of these, such as
        `predict:fraud-v3`. `ip_address` is the client's: without it, tokens and keys that work from
        some networks only are refused.

        Raises InvalidTokenError, InsufficientScopeError and ServiceUnavailableError.
        """
        if is_api_key(token):
            keys = self._keys
            verified = keys.find(token) or keys.exchange(token, self.timeout, ip_address)
        else:
            verified = self._checker.check(token, self.timeout)
        if verified.networks:
            require_network(verified.networks, ip_address)
        require_scopes(verified.user, scopes)
        return verified.user

    async def acheck(self, token: str, *scopes: str, ip_address: str | None = None) -> User:
        """Like check(), but never blocks the event loop."""
        user = (await self.averify(token, ip_address)).user
        require_scopes(user, scopes)
        return user

    def check_header(
        self, value: str | bytes | None, *scopes: str, ip_address: str | None = None
    ) -> User:
        """Like check(), for the value of an `Authorization` header, or None if there is none.

        Raises MissingTokenError too.
        """
        return self.check(parse_authorization(value), *scopes, ip_address=ip_address)

    async def acheck_header(
        self, value: str | bytes | None, *scopes: str, ip_address: str | None = None
    ) -> User:
        """Like check_header(), but never blocks the event loop."""
        return await self.acheck(parse_authorization(value), *scopes, ip_address=ip_address)

    def get_credential(self, headers: Iterable[tuple[bytes, bytes]]) -> str:
        """The token or API key in the headers of a request, whose names are in lower case: that of
        `Authorization` or of one of the `api_key_headers`.

        Raises MissingTokenError and InvalidTokenError.
        """
        return self._credentials.get(headers)

    @staticmethod
    def visible(user: User, names: Iterable[str], scope: str = "predict:{model}") -> list[str]:
        """The names that the user may see, for lists such as `/v1/models`: with them, the token's
        scopes cover `scope`."""
        return visible_names(user, names, scope)

    def protect(
        self, app: Any, public: Iterable[str] = (), **options: Unpack[MiddlewareOptions]
    ) -> None:
        """Require a valid token for all of a FastAPI or Starlette app, with what is mounted in it
        and its websockets, except for `public` paths. `options` are those of middleware().

        The app's OpenAPI says which operations need a token. Call this before the app starts, and
        add a CORS middleware afterwards.
        """
        app.add_middleware(self.middleware, public=public, **options)
        from hourpass.guard.fastapi_app import describe, put_inside_of_cors

        put_inside_of_cors(app)
        if hasattr(app, "openapi"):
            describe(app, self, PublicPaths(public).contain, ScopesByPath(options.get("scopes")))

    def middleware(
        self, app: ASGIApp, public: Iterable[str] = (), **options: Unpack[MiddlewareOptions]
    ) -> Middleware:
        """The app, with a valid token needed for all paths except `public` ones: exact paths, and
        all paths below one that ends in `/*`.

        The user is in the request's state and in its headers `X-Auth-User-Id`, `X-Auth-Username`
        (UTF-8, percent-encoded), `X-Auth-Kind`, `X-Auth-Scopes` (up to 3,800 bytes, otherwise
        absent) and, for an API key, `X-Auth-Key-Id`. Websockets and responses end when the token
        expires or is revoked.

        `username_headers` are further headers that get the username, such as `Remote-User`.
        `finish_requests` lets requests finish that began with a valid token; websockets end.
        `token_in_subprotocol` also accepts `Sec-WebSocket-Protocol: bearer, <token>`, which
        browsers can send.

        `scopes` are those that paths need: `{"/models/{model}/predict": "predict:{model}",
        "/admin/*": "manage"}`. Every pattern that matches counts. `{name}` is one segment of the
        path, `{name:path}` one or more. A value is a scope, several, or a Requirement, which may
        read the name from the body. A path that an app could read as another one is refused with
        400.
        """
        return Middleware(app, self, public, **options)

    def refusal(self, error: GuardError, accept: str = "") -> Refusal:
        """The HTTP response to a refused request with this `Accept` header."""
        return self._refusals.response(error, accept)

    @property
    def is_ready(self) -> bool:
        """Whether the guard can check tokens now: it is connected, or was so a short time ago."""
        state = self._feed.state
        return state is not None and self._clock.monotonic() < state.revocations.fresh_until

    def connect(self) -> None:
        """Begin to connect, and return at once."""
        self._feed.start()

    def start(self) -> None:
        """Connect before the first check. Raises ServiceUnavailableError."""
        self._feed.wait_for_first_answer(self.timeout)

    async def astart(self) -> None:
        """Like start(), but never blocks the event loop."""
        await run_in_thread(self.start)

    async def averify(self, token: str, ip_address: str | None = None) -> Verified:
        """Like acheck(), with what has_expired() and is_revoked() need later."""
        verified = await self.averify_anywhere(token, ip_address)
        if verified.networks:
            require_network(verified.networks, ip_address)
        return verified

    async def averify_anywhere(self, token: str, ip_address: str | None = None) -> Verified:
        """Like averify(), for a caller that calls require_network() afterwards."""
        if is_api_key(token):
            keys = self._keys
            return keys.find(token) or await keys.aexchange(token, self.timeout, ip_address)
        return await self._checker.acheck(token, self.timeout)

    def has_expired(self, verified: Verified) -> bool:
        return verified.expires_at <= self._clock.time()

    def is_due_for_renewal(self, verified: Verified) -> bool:
        """Whether it is in the last fifth of its life."""
        return verified.renew_at <= self._clock.time()

    def is_revoked(self, verified: Verified) -> bool:
        """As far as the guard knows: during an outage it learns of no revocation."""
        state = self._feed.state
        return state is not None and not state.revocations.contains_none(verified.revocable)

    def close(self) -> None:
        """End the thread and close the connections. A later check starts them again."""
        self._feed.close()
        self._checker.close()
        self._keys.close()
        self._reset()

    def __enter__(self) -> Self:
        try:
            self.start()
        except ServiceUnavailableError:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return await run_in_thread(self.__enter__)

    async def __aexit__(self, *_: object) -> None:
        self.close()

    def _reset(self) -> None:
        guard = weakref.ref(self)  # a guard that is dropped must not stay alive
        self._feed = RevocationFeed(
            lambda: _connection_of(guard),
            self.audience,
            self.issuer,
            self.fresh_for.total_seconds(),
            self.clock,
        )
        self._clock = self.clock
        self._checker = TokenChecker(self._feed, self.clock)
        self._keys = KeyExchange(self._feed, self._checker, self.clock)
        if self._dropped:
            self._dropped.detach()
        self._dropped = weakref.finalize(self, _close_dropped, self._feed)
        self._dropped.atexit = False  # a daemon thread ends with the process

    def _reset_in_child(self) -> None:
        """A forked child must not share thread, lock or connection with its parent."""
        self.transport = without_shared(self.transport)
        self._reset()

    def _connect(self) -> ServiceClient:
        if self.url.scheme == "http" and not is_loopback(self.url.host):
            _log.warning("The Hourpass service is asked over plain http; use https (RFC 9700)")
        return ServiceClient(new_client(self.url, self._tls, self._proxy, self.transport))


def _connection_of(reference: "weakref.ref[Guard]") -> ServiceClient:
    guard = reference()
    if guard is None:
        raise ServiceUnavailableError
    return guard._connect()  # noqa: SLF001 - of its own module


def _close_dropped(feed: RevocationFeed) -> None:
    """Runs in its own thread: the garbage collector may call this in any thread, even in one that
    holds a lock of the feed."""
    with suppress(RuntimeError):  # the process ends
        _thread.start_new_thread(feed.close, ())


def _reset_in_child() -> None:
    for guard in list(_guards):
        guard._reset_in_child()  # noqa: SLF001 - of its own module


_guards: "weakref.WeakSet[Guard]" = weakref.WeakSet()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_reset_in_child)
