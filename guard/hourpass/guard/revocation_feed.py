"""Follows the service's keys and revocations in a background thread, so checks need no request.

The guard uses its keys and revocations for a limited time. The time counts from when it sent the
last request that was answered, or from the moment that the last heartbeat proves. `on_outage` and
`trust_for` set its length.
"""

import logging
import time
from collections.abc import Callable
from threading import Event, Lock, Thread
from typing import Protocol

from hourpass.errors import GuardError, ServiceUnavailableError
from hourpass.guard.outage import LAST_RETRY_SECONDS, Outage, spread
from hourpass.guard.service_client import (
    HEARTBEAT_SECONDS,
    CursorRefusedError,
    FeedPage,
    HeartbeatMissingError,
    OutageError,
    ServiceClient,
    TooManyListenersError,
)
from hourpass.guard.token_verifier import TokenVerifier
from hourpass.guard.unknown_kids import UnknownKids
from hourpass.guard.verification_state import (
    Revocations,
    TooManyRevocationsError,
    VerificationState,
)
from hourpass.guard.waits import Waits

WAIT_SECONDS = 30  # that the service may wait for a revocation; it sends heartbeats meanwhile
# How long the guard uses its keys and revocations with on_outage="refuse". It notices a lost
# connection HEARTBEAT_SECONDS and ANSWER_SECONDS after a heartbeat. The rest is for the service to
# start again, or to show that only its heartbeats are missing.
OUTAGE_NOTICED_SECONDS = 10.0
PLAIN_POLL_SECONDS = 1.0  # between requests that do not wait
TOO_MANY_PAUSE_SECONDS = 60.0  # before asking again, if the feed is too long to be kept
KEYS_SECONDS = 300.0  # new keys are published for longer than this before they sign
# After a key was revoked, a thousand guards read the keys at the same time. The pause before the
# next read doubles while the key set contains the revoked key. For OLD_KEYS_SECONDS the guard takes
# such a set for an old one, from a worker that is behind.
FIRST_KEYS_PAUSE_SECONDS = 0.2
OLD_KEYS_SECONDS = 10.0

_log = logging.getLogger("hourpass.guard")


class Clock(Protocol):
    """The functions of the module `time` that the guard uses."""

    def time(self) -> float: ...
    def monotonic(self) -> float: ...


class RevocationFeed:
    """`state` is None until the service has answered for the first time."""

    def __init__(
        self,
        connect: Callable[[], ServiceClient],
        audience: str,
        issuer: str | None,
        fresh_seconds: float,
        clock: Clock,
    ) -> None:
        self.state: VerificationState | None = None
        self._revocations = Revocations()
        self._connect = connect
        self._audience = audience
        self._issuer = issuer
        self._fresh_seconds = fresh_seconds
        self._clock = clock
        self._service: ServiceClient | None = None
        self._started_at: float | None = None
        self._first_answer = Event()
        self._closing = Event()
        self._changing = Lock()
        self._unknown_kids = UnknownKids()
        self._reading_keys = Lock()
        self._keys_asked_at = self._keys_due_at = float("-inf")
        self._keys_pause = 0.0  # none: the keys that were read last are in order
        self._old_keys_until = float("-inf")
        self._waits = Waits()
        self._begins = True

    def start(self) -> None:
        with self._changing:
            if self._started_at is None and not self._closing.is_set():
                self._service = self._connect()
                try:
                    Thread(target=self._run, name="hourpass-feed", daemon=True).start()
                except RuntimeError:  # the machine's limit, or the process ends
                    _log.error("No thread can be started to follow the Hourpass service")
                    raise ServiceUnavailableError from None
                self._started_at = time.monotonic()

    def time_left(self, timeout: float) -> float:
        """Seconds that a caller may still wait for the first answer."""
        if self._started_at is None:
            return timeout
        return self._started_at + timeout - time.monotonic()

    def wait_for_first_answer(self, timeout: float) -> VerificationState:
        """Raises ServiceUnavailableError."""
        self.start()
        self._first_answer.wait(max(self.time_left(timeout), 0))
        if self.state is None:
            raise ServiceUnavailableError
        return self.state

    def is_active(self, token: str) -> bool:
        """Ask the service whether the token is valid. Raises ServiceUnavailableError."""
        return self._asked().is_active(token, self._audience)

    def exchange(self, key: str) -> str | None:
        """The access token for an API key, or None if the service refuses the key. Raises
        ServiceUnavailableError."""
        return self._asked().exchange(key, self._audience)

    def check_unknown_kid(self, kid: str, state: VerificationState) -> None:
        """Return if it is time to read the key set for it, or if another thread has read one since
        `state` lacked the key.

        Raises InvalidTokenError and ServiceUnavailableError.
        """
        try:
            self._unknown_kids.check(kid, self._clock.monotonic())
        except GuardError:
            if self.state is state:
                raise

    def find_key(self, kid: str, state: VerificationState) -> None:
        """Read the key set for it: one thread at a time, with pauses (unknown_kids.py).

        Raises InvalidTokenError and ServiceUnavailableError.
        """
        with self._reading_keys:
            if self.state is not state:
                return  # the thread that this one waited for has read a new key set
            self.check_unknown_kid(kid, state)
            asked_at, was_answered = self._clock.monotonic(), False
            try:
                was_answered = self._use_keys(*self._read_keys())
            finally:  # only now: until then other threads wait for the same read
                now = self._clock.monotonic()
                self._unknown_kids.record_read(asked_at, now, was_answered=was_answered)

    def close(self) -> None:
        """End the thread at once. It closes the connections."""
        with self._changing:
            self._closing.set()
        if self._service:
            self._service.interrupt()

    def _asked(self) -> ServiceClient:
        if self._service is None:
            raise ServiceUnavailableError
        return self._service

    def _run(self) -> None:
        outage = Outage()
        pause = 0.0
        while not self._closing.wait(pause):
            try:
                pause = self._step()
                outage.record_success()
            except CursorRefusedError:
                _log.warning("The service has another feed of revocations now; starting over")
                self._revocations.cursor, self._begins = None, True
                pause = spread(LAST_RETRY_SECONDS)  # all guards get a 410 at the same time
            except Exception as error:  # noqa: BLE001 - whatever it was must not end the thread
                if not self._closing.is_set():
                    self._begins = True  # it may come back with other keys
                    pause = outage.record_failure(error, self._fresh_for())
                    if isinstance(error, TooManyRevocationsError):
                        pause = TOO_MANY_PAUSE_SECONDS
        self._asked().close()

    def _fresh_for(self) -> float:
        """Seconds for which the guard may use its keys and revocations without another answer."""
        return self._revocations.fresh_until - self._clock.monotonic()

    def _step(self) -> float:
        """Returns the seconds until the next one."""
        if self._begins:
            self._begin()
        elif self._clock.monotonic() >= self._keys_due_at:
            self._use_keys(*self._read_keys())
        else:
            return self._listen()
        return 0

    def _begin(self) -> None:
        """At the start, after each outage and after each 410.

        After an outage the guard keeps its cursor: if the service accepts it, the cursor's random
        mark proves that the history is the same. After a 410 the guard reads the feed from the
        beginning, and keeps the revocations that it has.
        """
        issuer = self._asked().issuer()
        if self._issuer not in (None, issuer):
            raise OutageError("its issuer is not the one expected")
        asked_at, tokens = self._read_keys(issuer)
        self._read(wait=0)
        self._use_keys(asked_at, tokens, is_beginning=True)
        self._waits.reset()
        self._begins = False
        self._first_answer.set()

    def _listen(self) -> float:
        awaits_keys = self._keys_pause > 0
        longest = WAIT_SECONDS
        if awaits_keys:
            longest = min(max(int(self._keys_due_in()), 0), WAIT_SECONDS)
        wait = self._waits.next_wait(longest)
        asked_at, cursor = time.monotonic(), self._revocations.cursor
        try:
            page = self._read(wait)
        except TooManyListenersError:
            self._waits.refused()
            return 0
        except HeartbeatMissingError:
            self._read(wait=0)  # fails if the service is away; else only heartbeats are missing
            self._waits.heartbeat_missing()
            return 0
        self._waits.answered(wait)
        if page.revoked and page.cursor != cursor:
            return 0
        lasted = time.monotonic() - asked_at
        if awaits_keys and wait == 0:
            return min(max(self._keys_due_in(), 0), PLAIN_POLL_SECONDS)
        # Polling, or a proxy that does not wait, must not make this a busy loop.
        if lasted < PLAIN_POLL_SECONDS:
            return PLAIN_POLL_SECONDS
        # A service that shuts down ends the requests of all guards at the same time.
        return spread(PLAIN_POLL_SECONDS) if lasted < wait - 1 else 0

    def _read(self, wait: int) -> FeedPage:
        """Read up to the feed's end, and return the last page. Earlier pages prove nothing."""
        revocations = self._revocations

        while True:
            asked_at = self._clock.monotonic()

            def extend_until(moment: float) -> None:
                fresh_until = moment + self._fresh_seconds
                revocations.fresh_until = max(revocations.fresh_until, fresh_until)

            def hear(heartbeats: int, asked_at: float = asked_at) -> None:
                """The service knew all revocations when it sent the last heartbeat, however late
                that arrives. It sends the n-th one at least n intervals after the request."""
                if self._closing.is_set():
                    raise OutageError("closed meanwhile")
                now = self._clock.monotonic()
                extend_until(min(asked_at + heartbeats * HEARTBEAT_SECONDS, now))

            page = self._asked().revocations(revocations.cursor, wait, hear)
            has_revoked_keys = any(
                value.startswith("kid:") and revocations.contains_none((value,))
                for value in page.revoked
            )
            with self._changing:  # both at once for a thread that has just read an old key set
                revocations.add(page, self._clock.monotonic())
                if has_revoked_keys:
                    self._await_keys()
            if not page.more:
                extend_until(asked_at)
                return page
            wait = 0

    def _await_keys(self) -> None:
        """A key was revoked, so another key signs from now on. The caller has the lock."""
        now = self._clock.monotonic()
        self._old_keys_until = now + OLD_KEYS_SECONDS
        self._keys_pause = FIRST_KEYS_PAUSE_SECONDS
        self._keys_due_at = now + spread(FIRST_KEYS_PAUSE_SECONDS)

    def _keys_due_in(self) -> float:
        return self._keys_due_at - self._clock.monotonic()

    def _read_keys(self, issuer: str | None = None) -> tuple[float, TokenVerifier]:
        """The time of the request, and the keys. `issuer` is the same as before by default."""
        if issuer is None:
            if self.state is None:
                raise ServiceUnavailableError
            issuer = self.state.tokens.issuer
        asked_at = self._clock.monotonic()
        return asked_at, TokenVerifier(issuer, self._audience, self._asked().jwks())

    def _use_keys(
        self, asked_at: float, tokens: TokenVerifier, *, is_beginning: bool = False
    ) -> bool:
        """Use these keys from now on, and return True, unless the feed has revoked one of them.
        Such a key set is old and has to be read again."""
        with self._changing:
            state, now = self.state, self._clock.monotonic()
            if asked_at < self._keys_asked_at:
                return False  # another thread was faster
            self._keys_asked_at = asked_at
            are_old = not self._revocations.contains_none(tokens.revocable)
            if are_old:
                self._keys_pause = min(
                    2 * self._keys_pause or FIRST_KEYS_PAUSE_SECONDS, KEYS_SECONDS
                )
                self._keys_due_at = now + self._keys_pause / 2 + spread(self._keys_pause / 2)
                if state and now < self._old_keys_until:
                    return False
            else:
                self._keys_pause = 0
                self._keys_due_at = now + KEYS_SECONDS - spread(KEYS_SECONDS / 10)
            # Without public keys the guard cannot see whether it is still the same service.
            is_other = state is None or not tokens.agree_with(state.tokens)
            if is_other or (is_beginning and not tokens.has_keys):
                self.state = VerificationState(tokens, self._revocations, self._clock.time() - now)
                self._unknown_kids.reset()
            return True
