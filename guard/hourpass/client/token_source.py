"""Keeps one user logged in, and returns a valid token to any number of concurrent callers.

token_endpoint.py makes the requests for tokens. This module does not know what the tokens are for.
"""

import logging
import os
import threading
from collections.abc import Callable
from concurrent.futures import Future, wait
from copy import copy
from dataclasses import dataclass, field
from functools import partial
from typing import TypeAlias
from weakref import WeakSet

from hourpass.client.token_endpoint import OUTAGE_PAUSE, Connector, Failure, TokenEndpoint
from hourpass.errors import ServiceUnavailableError
from hourpass.event_loops import wait_for
from hourpass.http.errors import cause_of

# A token is renewed this long before it expires, or in the last tenth of a shorter lifetime.
# Meanwhile requests use the old one and do not wait, so a shorter outage has no effect.
RENEWAL_MARGIN = 300
# A token is not used in its last seconds: the request may take that long to reach its API.
CLOCK_MARGIN = 5

# An API that also rejects the replacement of a rejected token has another reason for it.
REFUSAL_PAUSE = 30

_log = logging.getLogger("hourpass.client")


@dataclass(frozen=True, slots=True)
class Token:
    """Times are those of the client's clock."""

    value: str = field(repr=False)
    refresh_token: str | None = field(repr=False)
    renew_at: float
    expires_at: float
    keep_until: float = 0  # until then it is kept, even if an API rejects it


Outcome: TypeAlias = Token | Failure


class TokenSource:
    """Each login runs in a short-lived thread of its own, and callers that need its token wait for
    it. So threads and the tasks of several event loops can share a login, and canceling one task
    does not affect the others."""

    def __init__(
        self,
        connector: Connector,
        credentials: dict[str, str],
        otp: Callable[[], str] | None,
        clock: Callable[[], float],
    ) -> None:
        self.origin = connector.url.origin
        self._endpoint = TokenEndpoint(connector, credentials, otp)
        self._clock = clock
        self.reset()
        _sources.add(self)

    def reset(self) -> None:
        """Forget token, renewal and failure."""
        self._lock = threading.Lock()
        self._held: Token | None = None
        self._renewal: Future[Outcome] | None = None
        self._failure: Failure | None = None
        self._silent_until = 0.0

    def reset_in_child(self) -> None:
        """A forked child has no threads, and must not use its parent's refresh token."""
        self._endpoint.reset_in_child()
        self.reset()

    def token(self, refused: str | None = None) -> str:
        """A valid token. It is another one than `refused`, unless the service issues no other.

        Raises LoginError, ServiceUnavailableError.
        """
        found = self._find(refused)
        return _value(found.result() if isinstance(found, Future) else found)

    async def atoken(self, refused: str | None = None) -> str:
        """Like token(), for asyncio and trio."""
        found = self._find(refused)
        return _value(await wait_for(found) if isinstance(found, Future) else found)

    def log_out(self) -> None:
        """Revoke the session if there is one, otherwise the token."""
        with self._lock:
            renewal = self._renewal
        if renewal:
            wait([renewal])
        with self._lock:
            held, self._held = self._held, None
        if held is None:
            return
        try:
            form = {"token": held.refresh_token or held.value}
            status = self._endpoint.post("/revoke", form).status_code
            cause = None if status == 200 else f"status {status}"
        except Exception as error:  # noqa: BLE001 - the program goes on without the token
            cause = cause_of(error)
        if cause:
            _log.warning("Not logged out at %s (%s)", self.origin, cause)

    def _find(self, refused: str | None) -> Outcome | Future[Outcome]:
        with self._lock:
            now, held = self._clock(), self._held
            if held and now < held.expires_at and (held.value != refused or now < held.keep_until):
                if now >= held.renew_at:
                    self._renew(now, fresh=False)
                return held
            return self._renew(now, fresh=refused is not None)

    def _renew(self, now: float, *, fresh: bool) -> Failure | Future[Outcome]:
        if self._renewal:
            return self._renewal
        if self._failure and now < self._silent_until:
            return self._failure
        renewal: Future[Outcome] = Future()
        renewal.set_running_or_notify_cancel()  # so that a waiting task cannot cancel it
        run = partial(self._run, renewal, fresh=fresh)
        threading.Thread(target=run, name="hourpass-login", daemon=True).start()
        self._renewal = renewal
        return renewal

    def _run(self, renewal: Future[Outcome], *, fresh: bool) -> None:
        outcome = self._log_in(fresh=fresh)
        with self._lock:
            self._renewal = None
            if isinstance(outcome, Token):
                self._held, self._failure = outcome, None
            else:
                # Once per outage: while the old token is valid, callers get no error.
                if self._failure is None:
                    _log.warning("%s", outcome)
                self._failure = outcome
                self._silent_until = self._clock() + outcome.pause
        renewal.set_result(outcome)

    def _log_in(self, *, fresh: bool) -> Outcome:
        try:
            held = self._held
            asked_at = self._clock()  # the lifetime begins before the response arrives
            answer = self._endpoint.request_token(held.refresh_token if held else None).json()
            lifetime = float(answer["expires_in"])
            return Token(
                value=str(answer["access_token"]),
                refresh_token=answer.get("refresh_token"),
                renew_at=asked_at + lifetime - min(RENEWAL_MARGIN, lifetime / 10),
                expires_at=asked_at + lifetime - CLOCK_MARGIN,
                keep_until=asked_at + REFUSAL_PAUSE if fresh else 0,
            )
        except Failure as failure:
            return failure
        except Exception as error:  # noqa: BLE001 - callers wait for an outcome
            # Not the error's text, which may quote what was sent.
            what = f"No login at {self.origin} ({cause_of(error)})"
            return Failure(ServiceUnavailableError(what), OUTAGE_PAUSE)


def _value(outcome: Outcome) -> str:
    if isinstance(outcome, Token):
        return outcome.value
    raise copy(outcome.error)  # so that each caller has its own traceback


def _reset_in_child() -> None:
    for source in list(_sources):
        source.reset_in_child()


_sources: WeakSet[TokenSource] = WeakSet()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_reset_in_child)
