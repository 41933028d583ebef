"""Follows the service in a thread of its own, so that checks need not ask it anything.

Freshness is one rule: what is known is believed for so many seconds, counted from when the last
question that got its answer was put. How many, is the guard's decision about outages.
"""

import logging
import random
import time
from collections.abc import Callable
from threading import Event, Lock, Thread
from typing import Protocol

from hourpass.errors import ServiceUnavailableError
from hourpass.known import Known, Revocations
from hourpass.service import (
    CursorRefusedError,
    OutageError,
    Page,
    Service,
    TooManyListenersError,
)
from hourpass.tokens import Tokens

WAIT_SECONDS = 3  # that the service may hold back an answer for lack of news
# What is known is believed for this long when outages are to refuse: a lost connection is noticed
# after WAIT_SECONDS and ANSWER_SECONDS, and the rest is for the service to start again.
OUTAGE_NOTICED_SECONDS = 10.0
PLAIN_POLL_SECONDS = 1.0  # between questions while the service lets nobody more wait
PLAIN_POLLS = 30  # before asking again whether one may wait
KEYS_SECONDS = 300.0  # new keys are published for longer than this before they sign
UNKNOWN_KID_PAUSE_SECONDS = 10.0
FIRST_RETRY_SECONDS, LAST_RETRY_SECONDS = 0.1, 2.0

_log = logging.getLogger("hourpass.guard")


class Clock(Protocol):
    """As the module `time` has them."""

    def time(self) -> float: ...
    def monotonic(self) -> float: ...


class Feed:
    """`known` is None until the service has answered for the first time."""

    def __init__(
        self,
        connect: Callable[[], Service],
        audience: str,
        issuer: str | None,
        believed_seconds: float,
        clock: Clock,
    ) -> None:
        self.known: Known | None = None
        self._connect = connect
        self._audience = audience
        self._issuer = issuer
        self._believed_seconds = believed_seconds
        self._clock = clock
        self._service: Service | None = None
        self._started_at: float | None = None
        self._first_answer = Event()
        self._closing = Event()
        self._changing = Lock()
        self._asking_for_keys = Lock()
        self._keys_read_at = 0.0
        self._keys_asked_at = float("-inf")
        self._keys_are_certain = True
        self._plain_polls_left = 0
        self._begins = True

    def start(self) -> None:
        with self._changing:
            if self._started_at is None:
                self._service = self._connect()
                Thread(target=self._run, name="hourpass-feed", daemon=True).start()
                self._started_at = time.monotonic()

    def patience_left(self, patience: float) -> float:
        """Seconds for which a first answer is still worth waiting for."""
        if self._started_at is None:
            return patience
        return self._started_at + patience - time.monotonic()

    def wait_for_first_answer(self, patience: float) -> Known:
        """Raises ServiceUnavailableError."""
        self.start()
        self._first_answer.wait(max(self.patience_left(patience), 0))
        if self.known is None:
            raise ServiceUnavailableError
        return self.known

    def vouches_for(self, token: str) -> bool:
        """Ask the service itself. Raises ServiceUnavailableError."""
        return self._asked().vouches_for(token)

    def may_have_new_keys(self) -> bool:
        """Raises ServiceUnavailableError if that could just now not be found out."""
        if self._clock.monotonic() >= self._keys_asked_at + UNKNOWN_KID_PAUSE_SECONDS:
            return True
        if not self._keys_are_certain:
            raise ServiceUnavailableError
        return False

    def look_for_new_keys(self) -> None:
        """However many tokens come under made-up keys, one looks at a time, and seldom.

        Raises ServiceUnavailableError.
        """
        with self._asking_for_keys:
            if not self.may_have_new_keys():
                return
            self._keys_are_certain = False
            try:
                self._renew_keys()
                self._keys_are_certain = True
            finally:  # only now: until then others come here as well, and wait
                self._keys_asked_at = self._clock.monotonic()

    def close(self) -> None:
        """The thread ends with the answer that it waits for, and closes the connections."""
        self._closing.set()

    def _asked(self) -> Service:
        if self._service is None:
            raise ServiceUnavailableError
        return self._service

    def _run(self) -> None:
        outage = _Outage()
        pause = 0.0
        while not self._closing.wait(pause):
            try:
                pause = self._take_step()
                if outage.ends():
                    self._keys_read_at = float("-inf")  # it may have come back with others
            except CursorRefusedError:
                _log.warning("The service has another feed of revocations now; starting over")
                self._begins = True
                pause = PLAIN_POLL_SECONDS
            except Exception as error:  # noqa: BLE001 - whatever it was must not end the thread
                if not self._closing.is_set():
                    self._plain_polls_left = max(self._plain_polls_left, 1)  # to be back at once
                    pause = outage.goes_on(error, self._believed_for())
        self._asked().close()

    def _believed_for(self) -> float:
        """The seconds for which what is known would still be believed without another answer."""
        if self.known is None:
            return 0
        return self.known.revocations.believed_until - self._clock.monotonic()

    def _take_step(self) -> float:
        """Returns the seconds until the next one."""
        if self.known is None or self._begins:
            self._begin()
        elif self._clock.monotonic() >= self._keys_read_at + KEYS_SECONDS:
            self._renew_keys()
        else:
            return self._listen(self.known.revocations)
        return 0

    def _begin(self) -> None:
        """From nothing; what was known before goes on until this is complete."""
        known = Known(self._read_tokens(), Revocations())
        self._read(known.revocations, wait=0)
        with self._changing:
            self.known = known
        self._begins = False
        self._first_answer.set()

    def _listen(self, revocations: Revocations) -> float:
        asked_at = time.monotonic()
        try:
            page = self._read(revocations, 0 if self._plain_polls_left else WAIT_SECONDS)
        except TooManyListenersError:
            self._plain_polls_left = PLAIN_POLLS
            return 0
        self._plain_polls_left = max(self._plain_polls_left - 1, 0)
        if any(value.startswith("kid:") for value in page.revoked):
            self._keys_read_at = float("-inf")  # another key signs from now on
        # Neither polling nor a proxy that does not wait may make this a busy loop.
        hurried = not page.revoked and time.monotonic() - asked_at < PLAIN_POLL_SECONDS
        return PLAIN_POLL_SECONDS if hurried else 0

    def _read(self, revocations: Revocations, wait: int) -> Page:
        """Up to the feed's end; returns the last page."""
        while True:
            asked_at = self._clock.monotonic()
            page = self._asked().revocations(revocations.cursor, wait)
            revocations.learn(page, self._clock.time())
            if not page.more:
                revocations.believed_until = asked_at + self._believed_seconds
                return page

    def _renew_keys(self) -> None:
        known = self.known
        tokens = self._read_tokens()
        with self._changing:
            if known and self.known is known and not tokens.agree_with(known.tokens):
                self.known = Known(tokens, known.revocations)

    def _read_tokens(self) -> Tokens:
        issuer = self._asked().issuer()
        if self._issuer not in (None, issuer):
            raise OutageError("its issuer is not the one expected")
        tokens = Tokens(issuer, self._audience, self._asked().jwks())
        self._keys_read_at = self._clock.monotonic()
        return tokens


class _Outage:
    """Says once that the service is away, once that nobody is let in, and once that it is back."""

    def __init__(self) -> None:
        self._pause = 0.0
        self._refuses = False

    def goes_on(self, error: Exception, believed_for: float) -> float:
        """Returns the seconds until the next attempt."""
        cause = error.cause if isinstance(error, OutageError) else type(error).__name__
        if not self._pause:
            _log.warning("The Hourpass service cannot be reached: %s", cause)
        if believed_for <= 0 and not self._refuses:
            self._refuses = True
            _log.error("Every request is refused until the Hourpass service can be reached")
        self._pause = min(2 * self._pause or FIRST_RETRY_SECONDS, LAST_RETRY_SECONDS)
        return self._pause * random.uniform(0.5, 1)  # noqa: S311 - to spread load, not to hide

    def ends(self) -> bool:
        """Whether there was one."""
        was_away = self._pause > 0
        if was_away:
            _log.warning("The Hourpass service can be reached again")
        self._pause, self._refuses = 0.0, False
        return was_away
