"""Keeps one user logged in, and returns a valid token to any number of concurrent callers.

Knows the service's token endpoint, but not the requests that the token is for.
"""

import asyncio
import logging
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, wait
from copy import copy
from dataclasses import dataclass, field
from functools import partial
from typing import TypeAlias
from weakref import WeakSet

import httpx

from hourpass.errors import GuardError, LoginError, ServiceUnavailableError

# A token is renewed this long before it expires, or in the last tenth of a shorter lifetime.
# Meanwhile requests use the old one and do not wait, so a shorter outage has no effect.
RENEWAL_MARGIN = 300
# A token is not used in its last seconds: the request may take that long to reach its API.
CLOCK_MARGIN = 5

TIMEOUT = 15
# A login is retried if the service is busy and its Retry-After is short enough.
ATTEMPTS = 3
LONGEST_WAIT = 5
# How long a failure is cached. A wrong password stays wrong, and each attempt costs the service a
# hash and counts towards a lockout.
LOGIN_PAUSE = 60
OUTAGE_PAUSE = 1
LONGEST_PAUSE = 300
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
    keep_until: float = 0
    """Until then it is kept, even if an API rejects it."""


class Failure(Exception):  # noqa: N818 - it contains the error that callers see
    """Why there is no token, and for how many seconds the service is not asked again."""

    def __init__(self, error: GuardError, pause: float) -> None:
        super().__init__(str(error))
        self.error = error
        self.pause = pause


Outcome: TypeAlias = Token | Failure


class TokenSource:
    """Each login runs in a short-lived thread of its own, and callers that need its token wait for
    it. So threads and the tasks of several event loops can share a login, and canceling one task
    does not affect the others."""

    def __init__(
        self,
        url: httpx.URL,
        credentials: dict[str, str],
        otp: Callable[[], str] | None,
        clock: Callable[[], float],
        transport: httpx.BaseTransport | None,
    ) -> None:
        self.origin = f"{url.scheme}://{url.netloc.decode()}"
        self._base_url = url
        self._credentials = credentials
        self._otp = otp
        self._clock = clock
        self._transport = transport
        self.reset()
        _sources.add(self)

    def reset(self) -> None:
        """Forget token, renewal and failure."""
        self._lock = threading.Lock()
        self._held: Token | None = None
        self._renewal: Future[Outcome] | None = None
        self._failure: Failure | None = None
        self._silent_until = 0.0

    def token(self, refused: str | None = None) -> str:
        """A valid token. It is another one than `refused`, unless the service issues no other.

        Raises LoginError, ServiceUnavailableError.
        """
        found = self._find(refused)
        return _value(found.result() if isinstance(found, Future) else found)

    async def atoken(self, refused: str | None = None) -> str:
        """Like token(), for asyncio."""
        found = self._find(refused)
        return _value(await asyncio.wrap_future(found) if isinstance(found, Future) else found)

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
            self._post("/revoke", {"token": held.refresh_token or held.value}).raise_for_status()
        except httpx.HTTPError as error:
            _log.warning("Not logged out at %s (%s)", self.origin, type(error).__name__)

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
            asked_at = self._clock()  # the lifetime begins before the response arrives
            answer = self._request_token().json()
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
            what = f"No login at {self.origin} ({type(error).__name__})"
            return Failure(ServiceUnavailableError(what), OUTAGE_PAUSE)

    def _request_token(self) -> httpx.Response:
        """The response to the refresh token if there is one, otherwise to the password."""
        held = self._held
        if held and held.refresh_token:
            grant = {"grant_type": "refresh_token", "refresh_token": held.refresh_token}
            answer = self._ask(grant)
            if answer.status_code == 200:
                return answer
        answer = self._ask({"grant_type": "password", **self._credentials, **self._code()})
        if answer.status_code == 200:
            return answer
        if _error_of(answer) == "mfa_required":
            what = "the account has a second factor, so otp= has to give a code"
        elif _error_of(answer) == "invalid_scope":
            what = "the account has none of the requested scopes"
        else:
            what = "the username, the password or the code is wrong, or the account is disabled"
        raise Failure(LoginError(f"{self.origin} gives no token: {what}"), LOGIN_PAUSE)

    def _code(self) -> dict[str, str]:
        if self._otp is None:
            return {}
        try:
            return {"otp": self._otp()}
        except Exception as error:  # noqa: BLE001 - the caller's function
            what = f"No code for {self.origin}: otp raised {type(error).__name__}"
            raise Failure(LoginError(what), LOGIN_PAUSE) from None

    def _ask(self, grant: dict[str, str]) -> httpx.Response:
        """The response, once it accepts or rejects the grant. Retries while the service is busy."""
        attempts = 0
        while True:
            attempts += 1
            answer = self._post("/token", grant)
            if answer.status_code in (200, 400, 401):
                return answer
            seconds = _retry_after(answer)
            if seconds is None:
                what = f"{self.origin} answers a login with {answer.status_code}"
                raise Failure(ServiceUnavailableError(what), OUTAGE_PAUSE)
            if attempts == ATTEMPTS or seconds > LONGEST_WAIT:
                what = f"{self.origin} is busy and asks to wait {seconds:g} seconds"
                raise Failure(ServiceUnavailableError(what), max(seconds, OUTAGE_PAUSE))
            time.sleep(seconds)

    def _post(self, path: str, form: dict[str, str]) -> httpx.Response:
        """On a new connection: there is one request an hour, and forks must not share it.

        Redirects are not followed. A proxy is used for https only, where it cannot read along.
        """
        with httpx.Client(
            base_url=self._base_url,
            transport=self._transport,
            trust_env=self._base_url.scheme == "https",
            timeout=TIMEOUT,
            headers={"User-Agent": "HourpassAuth"},
        ) as client:
            return client.post(path, data=form)


def _value(outcome: Outcome) -> str:
    if isinstance(outcome, Token):
        return outcome.value
    raise copy(outcome.error)  # so that each caller has its own traceback


def _error_of(answer: httpx.Response) -> object:
    try:
        return answer.json().get("error")
    except (ValueError, AttributeError):  # no JSON, or no object
        return None


def _retry_after(answer: httpx.Response) -> float | None:
    """The seconds to wait, if the service is busy and says so (RFC 9110, 10.2.3)."""
    said = answer.headers.get("Retry-After", "")
    busy = answer.status_code in (429, 503) and said.isascii() and said.isdigit()
    return min(float(said), LONGEST_PAUSE) if busy else None


def _reset_in_child() -> None:
    """A child has no threads, and must not use its parent's refresh token."""
    for source in list(_sources):
        source.reset()


_sources: WeakSet[TokenSource] = WeakSet()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_reset_in_child)
