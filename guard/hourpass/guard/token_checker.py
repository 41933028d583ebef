"""Checks tokens by what the guard knows, and asks the service only where that is not enough."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import BoundedSemaphore
from typing import Any, TypeVar

from hourpass.errors import ServiceUnavailableError
from hourpass.event_loops import wait_for
from hourpass.guard.invalid_tokens import invalid_token
from hourpass.guard.revocation_feed import Clock, RevocationFeed
from hourpass.guard.token_verifier import UnknownKeyError, Verified
from hourpass.guard.verification_state import VerificationState

# For async callers whose token needs a request to the service: threads, and callers in all.
ASKING_THREADS = 8
MAX_ASKING = 1_024
MAX_KEY_SETS = 3  # under which one token is tried: meanwhile other threads may read new ones

_T = TypeVar("_T")


class TokenChecker:
    """All methods raise InvalidTokenError and ServiceUnavailableError. `timeout` is in seconds: how
    long a caller waits for the service's first answer."""

    def __init__(self, feed: RevocationFeed, clock: Clock) -> None:
        self._feed = feed
        self._clock = clock
        self._threads = ThreadPoolExecutor(ASKING_THREADS, "hourpass-guard")
        self._asking = BoundedSemaphore(MAX_ASKING)

    def close(self) -> None:
        self._threads.shutdown(wait=False)

    def check(self, token: str, timeout: float) -> Verified:
        return self._check_locally(token, timeout) or self._check_with_service(token, timeout)

    async def acheck(self, token: str, timeout: float) -> Verified:  # noqa: ASYNC109 - see above
        """Like check(), but never blocks the event loop."""
        verified = self._check_locally(token, timeout)
        if verified is not None:
            return verified
        return await self._ask(self._check_with_service, token, timeout)

    def check_issued(self, token: str, timeout: float) -> Verified:
        """Like check(), for a token that the service has just issued to this guard, so that it need
        not be asked whether the token is valid."""
        state = self._feed.wait_for_first_answer(timeout)
        try:
            return self.check_against(state, token)
        except UnknownKeyError as unknown:
            if state.tokens.has_keys:
                return self.check(token, timeout)
            return state.remember(token, unknown.claimed)

    async def wait_for_first_answer(self, timeout: float) -> None:  # noqa: ASYNC109 - see above
        """Like RevocationFeed.wait_for_first_answer(), but never blocks the event loop."""
        await self._ask(self._feed.wait_for_first_answer, timeout)

    def fresh_state(self) -> VerificationState:
        state = self._feed.state
        if state is None or self._clock.monotonic() >= state.revocations.fresh_until:
            raise ServiceUnavailableError
        return state

    async def _ask(self, function: Callable[..., _T], *arguments: Any) -> _T:
        asking = self._asking
        if not asking.acquire(blocking=False):
            raise ServiceUnavailableError
        try:
            answer = self._threads.submit(function, *arguments)
        except RuntimeError:  # closed meanwhile
            asking.release()
            raise ServiceUnavailableError from None
        answer.add_done_callback(lambda _: asking.release())
        return await wait_for(answer)

    def _check_locally(self, token: str, timeout: float) -> Verified | None:
        """The verified token, or None if that needs a request to the service. Never blocks."""
        feed = self._feed
        state = feed.state
        if state is None:
            if feed.time_left(timeout) <= 0:
                raise ServiceUnavailableError
            return None
        try:
            return self.check_against(state, token)
        except UnknownKeyError as unknown:
            if state.tokens.has_keys:
                feed.check_unknown_kid(unknown.kid, state)
            return None

    def check_against(self, state: VerificationState, token: str) -> Verified:
        """Never blocks. Raises UnknownKeyError too, if the service has to be asked."""
        now, monotonic_now = self._clock.time(), self._clock.monotonic()
        verified = state.get(token, now, monotonic_now)
        if verified is not None:
            return verified
        try:
            return state.remember(token, state.tokens.verify(token, now))
        except UnknownKeyError as unknown:
            if not state.revocations.contains_none(unknown.claimed.revocable):
                raise invalid_token("revoked") from None
            if not state.tokens.has_keys and state.recently_invalid.contains(token, monotonic_now):
                raise invalid_token("refused by the service some seconds ago") from None
            raise

    def _check_with_service(self, token: str, timeout: float) -> Verified:
        feed = self._feed
        state = feed.wait_for_first_answer(timeout)
        for _ in range(MAX_KEY_SETS):
            try:
                return self.check_against(state, token)
            except UnknownKeyError as unknown:
                if not state.tokens.has_keys:
                    if not feed.is_active(token):
                        state.recently_invalid.add(token, self._clock.monotonic())
                        raise invalid_token("refused by the service") from None
                    return state.remember(token, unknown.claimed)
                feed.find_key(unknown.kid, state)
            state = feed.wait_for_first_answer(timeout)
        raise ServiceUnavailableError
