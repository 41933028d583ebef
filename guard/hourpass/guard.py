"""Verifies the tokens of a Hourpass service in the API's own process.

The guard looks up tokens that it has seen before in memory, and verifies the signature of new ones.
Neither needs a request to the service: a thread follows its keys and revocations (feed.py). Only if
the service signs with a shared secret, the guard asks it about each new token.
"""

import asyncio
import logging
import os
import time
import weakref
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from functools import partial
from ipaddress import ip_address
from threading import BoundedSemaphore
from typing import Any, Literal, Self

import httpx

from hourpass.errors import InvalidTokenError, ServiceUnavailableError
from hourpass.feed import OUTAGE_NOTICED_SECONDS, Clock, Feed
from hourpass.known import Known
from hourpass.middleware import ASGIApp, Middleware
from hourpass.service import Service
from hourpass.tokens import UnknownKeyError, User

try:
    from hourpass.dependency import RouteDependency
except ModuleNotFoundError as missing:
    if missing.name not in ("fastapi", "starlette"):
        raise

    class RouteDependency:  # type: ignore[no-redef] # FastAPI is optional
        """Without FastAPI, no route depends on the guard."""


PATIENCE = timedelta(seconds=5)
MAX_TRUST = timedelta(minutes=60)  # a token's lifetime, unless TOKEN_MINUTES is changed
# For async callers whose token needs a request to the service: threads, and callers in all.
ASKING_THREADS = 8
MAX_ASKING = 1_024
MAX_KEY_SETS = 3  # under which one token is tried: meanwhile other threads may read new ones

_log = logging.getLogger("hourpass.guard")


class Guard(RouteDependency):
    """`Depends(guard)` in FastAPI, `guard.middleware` around any ASGI app, `guard.check(token)`
    everywhere else. Opens no connection and starts no thread before the first check.

    `url` is the URL of the service; the guard trusts it. `issuer` pins the issuer in the service's
    metadata. If the service is unreachable, `on_outage="refuse"` refuses all tokens after
    OUTAGE_NOTICED_SECONDS. `"trust"` uses the known keys and revocations for `trust_for`, and
    accepts tokens that are revoked meanwhile.
    """

    def __init__(  # noqa: PLR0913 - one for each thing to decide, and all have a default
        self,
        url: str,
        *,
        audience: str = "ml-api",
        issuer: str | None = None,
        on_outage: Literal["refuse", "trust"] = "refuse",
        trust_for: timedelta = timedelta(minutes=10),
        patience: timedelta = PATIENCE,
        transport: httpx.BaseTransport | None = None,
        clock: Clock = time,
    ) -> None:
        super().__init__()
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
            "patience": patience,
        }
        self.url = _service_url(url)
        self.audience = audience
        self.issuer = issuer
        self.believed_for = trust_for if on_outage == "trust" else noticed
        self.patience = patience.total_seconds()
        # Read before the first request to the service, and again after close().
        self.transport = transport
        self.clock = clock
        self._begin_anew()
        if hasattr(os, "register_at_fork"):
            # A child process must not share thread, lock or connection with its parent.
            alive = weakref.WeakMethod(self._begin_anew)

            def in_child() -> None:
                if begin_anew := alive():
                    begin_anew()

            os.register_at_fork(after_in_child=in_child)

    def __reduce__(self) -> tuple[Callable[[], Self], tuple[()]]:
        """For pickle. The copy has its own thread, and no `transport` or `clock`."""
        return partial(type(self), **self._arguments), ()

    def check(self, token: str) -> User:
        """Raises InvalidTokenError and ServiceUnavailableError."""
        return self._tell(token) or self._find_out(token)

    async def acheck(self, token: str) -> User:
        """Like check(), but never blocks the event loop."""
        return self._tell(token) or await self._find_out_in_a_thread(token)

    def middleware(self, app: ASGIApp, public: Iterable[str] = ()) -> Middleware:
        """The app, with a valid token needed for all paths except `public` ones: exact paths, and
        all paths below one that ends in `/*`. The user is in the request's state."""
        return Middleware(app, self.acheck, public)

    def start(self) -> None:
        """Connect before the first check. Raises ServiceUnavailableError."""
        self._feed.wait_for_first_answer(self.patience)

    def close(self) -> None:
        """End the thread and close the connections. A later check starts them again."""
        self._feed.close()
        self._threads.shutdown(wait=False)
        self._begin_anew()

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
        return await asyncio.to_thread(self.__enter__)

    async def __aexit__(self, *_: object) -> None:
        self.close()

    def _begin_anew(self) -> None:
        self._feed = Feed(
            self._connect, self.audience, self.issuer, self.believed_for.total_seconds(), self.clock
        )
        self._clock = self.clock
        self._threads = ThreadPoolExecutor(ASKING_THREADS, "hourpass-guard")
        self._asking = BoundedSemaphore(MAX_ASKING)

    def _connect(self) -> Service:
        if self.url.scheme == "http" and not _is_loopback(self.url.host):
            _log.warning("The Hourpass service is asked over plain http; use https (RFC 9700)")
        return Service(self.url, self.transport)

    def _tell(self, token: str) -> User | None:
        """The token's user, or None if that needs a request to the service. Never blocks.

        Raises InvalidTokenError and ServiceUnavailableError.
        """
        feed = self._feed
        known = feed.known
        if known is None:
            if feed.patience_left(self.patience) <= 0:
                raise ServiceUnavailableError
            return None
        try:
            return self._tell_by(known, token)
        except UnknownKeyError as unknown:
            if known.tokens.has_keys:
                feed.meet_unknown(unknown.kid, known)
            return None

    def _tell_by(self, known: Known, token: str) -> User:
        """Raises UnknownKeyError, InvalidTokenError and ServiceUnavailableError."""
        now, monotonic_now = self._clock.time(), self._clock.monotonic()
        user = known.recall(token, now, monotonic_now)
        if user is not None:
            return user
        try:
            return known.admit(token, known.tokens.read(token, now))
        except UnknownKeyError as unknown:
            if not known.revocations.include_none_of(unknown.claimed.revocable):
                raise InvalidTokenError from None
            raise

    def _find_out(self, token: str) -> User:
        """Raises InvalidTokenError and ServiceUnavailableError."""
        feed = self._feed
        known = feed.wait_for_first_answer(self.patience)
        for _ in range(MAX_KEY_SETS):
            try:
                return self._tell_by(known, token)
            except UnknownKeyError as unknown:
                if not known.tokens.has_keys:
                    if not feed.vouches_for(token):
                        raise InvalidTokenError from None
                    return known.admit(token, unknown.claimed)
                feed.look_for(unknown.kid, known)
            known = feed.wait_for_first_answer(self.patience)
        raise ServiceUnavailableError

    async def _find_out_in_a_thread(self, token: str) -> User:
        """Raises InvalidTokenError and ServiceUnavailableError."""
        asking = self._asking
        if not asking.acquire(blocking=False):
            raise ServiceUnavailableError
        try:
            answer = self._threads.submit(self._find_out, token)
        except RuntimeError:  # closed meanwhile
            asking.release()
            raise ServiceUnavailableError from None
        answer.add_done_callback(lambda _: asking.release())
        return await asyncio.wrap_future(answer)


def _service_url(url: str) -> httpx.URL:
    parsed = httpx.URL(url)
    if parsed.scheme not in ("http", "https") or not parsed.host or parsed.userinfo:
        raise ValueError("The service's address is http(s)://host, without user and password")
    return parsed


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
