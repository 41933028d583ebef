"""Exchanges API keys for access tokens (RFC 8693), and remembers which token a key has.

Keys are remembered by a digest under a secret of this process, never by themselves or by a plain
hash. The token of a key is checked at each request like any other token (token_checker.py): by its
expiry and by the revocation feed, and by nothing else.
"""

import os
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from contextlib import suppress
from hashlib import blake2s
from threading import BoundedSemaphore, Event, Lock

from hourpass.api_keys import KEY_LENGTH, is_well_formed
from hourpass.errors import InvalidTokenError, ServiceUnavailableError
from hourpass.event_loops import wait_for
from hourpass.guard.client_budget import Client, ClientBudget
from hourpass.guard.invalid_tokens import invalid_token
from hourpass.guard.networks import client_network
from hourpass.guard.refused_keys import RefusedKeys
from hourpass.guard.revocation_feed import Clock, RevocationFeed
from hourpass.guard.token_checker import TokenChecker
from hourpass.guard.token_verifier import Verified

MAX_KEYS = 16_384  # remembered, each with its token; the oldest are dropped
MAX_EXCHANGES = 50  # at a time. More keys that were seen before wait, others are refused
WAIT_SECONDS = 3.0  # that a caller waits for an exchange
MAX_WAITING = 1_024  # async callers in all
RENEWAL_PAUSE_SECONDS = 5.0  # between attempts to renew the token of one key
# A worker of the service may be behind the feed, and return a token that was revoked a moment ago.
USABLE_TOKEN_PAUSES = (0.1, 0.3, 0.0)


class _Known:
    """The token of a key. Times are those of the wall clock, as in the token."""

    __slots__ = ("expires_at", "renew_at", "token")

    def __init__(self, token: str, verified: Verified, now: float) -> None:
        self.token = token
        self.expires_at = verified.expires_at
        # A service that returns the same token again must not be asked at each request.
        self.renew_at = max(verified.renew_at, now + RENEWAL_PAUSE_SECONDS)


class KeyExchange:
    """All methods raise InvalidTokenError and ServiceUnavailableError. `timeout` is as in
    TokenChecker. `ip_address` is that of the client."""

    def __init__(self, feed: RevocationFeed, tokens: TokenChecker, clock: Clock) -> None:
        self._feed = feed
        self._tokens = tokens
        self._clock = clock
        # With a byte more than the secret, so that the secret's block is hashed only once.
        self._hasher = blake2s(b"\0", key=os.urandom(32), digest_size=16)
        self._known: dict[bytes, _Known] = {}  # by the key's digest; the oldest token first
        self._refused = RefusedKeys()
        self._budget = ClientBudget()
        self._exchanges: dict[bytes, Future[Verified]] = {}  # those that run or wait for a thread
        self._changing = Lock()
        self._threads = ThreadPoolExecutor(MAX_EXCHANGES, "hourpass-keys")
        self._waiting = BoundedSemaphore(MAX_WAITING)
        self._closing = Event()

    def close(self) -> None:
        self._closing.set()
        self._threads.shutdown(wait=False, cancel_futures=True)

    def find(self, key: str) -> Verified | None:
        """The verified token of a known key. Never blocks.

        None if the key must be exchanged: for the first time, or because its token has expired or
        was revoked. The key itself may still be valid with fewer scopes.
        """
        digest = self._digest(key)
        known, state = self._known.get(digest), self._feed.state
        if known is None or state is None:
            return None
        now = self._clock.time()
        try:
            verified = state.get(known.token, now, self._clock.monotonic())
            if verified is None:  # there are new signing keys, or the clock was set
                verified = self._tokens.check_against(state, known.token)
        except InvalidTokenError:
            return None
        if now >= known.renew_at:
            self._renew(key, digest, known, now)
        return verified

    def exchange(self, key: str, timeout: float, ip_address: str | None) -> Verified:
        """Call find() first."""
        if self._feed.state is None:
            self._feed.wait_for_first_answer(timeout)
        exchange = self._exchange_of(key, ip_address)
        try:
            return exchange.result(WAIT_SECONDS)
        except (TimeoutError, CancelledError):  # the second if the guard is closed meanwhile
            raise ServiceUnavailableError from None

    async def aexchange(self, key: str, timeout: float, ip_address: str | None) -> Verified:  # noqa: ASYNC109 - as in TokenChecker
        """Like exchange(), but never blocks the event loop."""
        if self._feed.state is None:
            await self._tokens.wait_for_first_answer(timeout)
        waiting = self._waiting
        if not waiting.acquire(blocking=False):
            raise ServiceUnavailableError
        try:
            exchange = self._exchange_of(key, ip_address)
            return await wait_for(_follow(exchange), WAIT_SECONDS)
        except TimeoutError:
            raise ServiceUnavailableError from None
        finally:
            waiting.release()

    def _digest(self, key: str) -> bytes:
        try:
            encoded = key.encode()
        except UnicodeEncodeError:
            encoded = b""
        if len(encoded) != KEY_LENGTH:
            raise invalid_token("an API key of another length")
        hasher = self._hasher.copy()
        hasher.update(encoded)
        return hasher.digest()

    def _renew(self, key: str, digest: bytes, known: _Known, now: float) -> None:
        """Exchange the key in the background. During an outage, the old token stays in use."""
        with self._changing, suppress(ServiceUnavailableError):
            if digest not in self._exchanges and len(self._exchanges) < MAX_EXCHANGES:
                known.renew_at = now + RENEWAL_PAUSE_SECONDS
                self._begin(key, digest)

    def _exchange_of(self, key: str, ip_address: str | None) -> "Future[Verified]":
        """The exchange that all callers with this key wait for."""
        if not is_well_formed(key):
            raise invalid_token("an API key with a typing error")
        digest = self._digest(key)
        revocations = self._tokens.fresh_state().revocations
        now = self._clock.monotonic()
        if self._refused.contain(digest, revocations.cursor, now):
            raise invalid_token("an API key that the service refused some seconds ago")
        with self._changing:
            exchange = self._exchanges.get(digest)
            if exchange is not None:
                return exchange
            known = self._known.get(digest)
            if known is not None and known.expires_at > self._clock.time():
                return self._begin(key, digest)
            if len(self._exchanges) >= MAX_EXCHANGES:
                raise ServiceUnavailableError
            client = client_network(ip_address)
            self._budget.take(client, now)
            return self._begin(key, digest, (client,))

    def _begin(
        self, key: str, digest: bytes, charged: tuple[Client, ...] = ()
    ) -> "Future[Verified]":
        """The caller has the lock."""
        try:
            exchange = self._threads.submit(self._exchange, key, digest, charged)
        except RuntimeError:  # closed meanwhile, or the machine's limit of threads
            raise ServiceUnavailableError from None
        self._exchanges[digest] = exchange
        return exchange

    def _exchange(self, key: str, digest: bytes, charged: tuple[Client, ...]) -> Verified:
        try:
            verified = self._new_token(key, digest)
            with self._changing:
                for client in charged:
                    self._budget.give_back(client)
            return verified
        finally:
            with self._changing:
                del self._exchanges[digest]

    def _new_token(self, key: str, digest: bytes) -> Verified:
        revocations = self._tokens.fresh_state().revocations
        for pause in USABLE_TOKEN_PAUSES:
            cursor = revocations.cursor
            token = self._feed.exchange(key)
            if token is None:
                with self._changing:
                    self._known.pop(digest, None)
                self._refused.add(digest, cursor, revocations.cursor, self._clock.monotonic())
                raise invalid_token("an API key that the service refuses")
            try:
                verified = self._tokens.check_issued(token, 0)
            except InvalidTokenError:
                self._closing.wait(pause)
                continue
            self._remember(digest, token, verified)
            return verified
        raise ServiceUnavailableError

    def _remember(self, digest: bytes, token: str, verified: Verified) -> None:
        now = self._clock.time()
        with self._changing:
            self._known.pop(digest, None)
            while self._known:
                oldest = next(iter(self._known))
                if len(self._known) < MAX_KEYS and self._known[oldest].expires_at > now:
                    break
                del self._known[oldest]
            self._known[digest] = _Known(token, verified, now)


def _follow(exchange: "Future[Verified]") -> "Future[Verified]":
    """A future for one caller. Canceling it does not cancel the exchange, which others may need."""
    follower: Future[Verified] = Future()

    def finish(done: "Future[Verified]") -> None:
        if not follower.set_running_or_notify_cancel():
            return
        error = ServiceUnavailableError() if done.cancelled() else done.exception()
        if error is not None:
            follower.set_exception(error)
        else:
            follower.set_result(done.result())

    exchange.add_done_callback(finish)
    return follower
