"""Requests of a client to the service, with its password, refresh token or second factor."""

import json
import time
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple
from urllib.parse import urlencode

from hourpass.errors import GuardError, LoginError, ServiceUnavailableError
from hourpass.http.connection import Headers, Limits
from hourpass.http.errors import HttpError
from hourpass.http.tls import Tls
from hourpass.http.transports import Transport, new_client, without_shared
from hourpass.http.urls import ProxyUrl, ServiceUrl

TIMEOUT = 15  # seconds for a whole response, however slowly it arrives
MAX_RESPONSE_BYTES = 1 << 16  # the service's have a few thousand
# A login is retried if the service is busy and its Retry-After is short enough.
ATTEMPTS = 3
LONGEST_WAIT = 5
# How long a failure is cached. A wrong password stays wrong, and each attempt costs the service a
# hash and counts towards a lockout.
LOGIN_PAUSE = 60
OUTAGE_PAUSE = 1
LONGEST_PAUSE = 300


class Failure(Exception):  # noqa: N818 - it contains the error that callers see
    """Why there is no token, and for how many seconds the service is not asked again."""

    def __init__(self, error: GuardError, pause: float) -> None:
        super().__init__(str(error))
        self.error = error
        self.pause = pause


class Response(NamedTuple):
    status_code: int
    headers: Headers
    body: bytes

    def json(self) -> Any:
        """Raises ValueError."""
        return json.loads(self.body)


class Connector(NamedTuple):
    """How to reach the service."""

    url: ServiceUrl
    tls: Tls
    proxy: ProxyUrl | None
    transport: Transport | None


class TokenEndpoint:
    def __init__(
        self,
        connector: Connector,
        credentials: dict[str, str],
        otp: Callable[[], str] | None,
    ) -> None:
        self._connector = connector
        self._origin = connector.url.origin
        self._credentials = credentials
        self._otp = otp

    def reset_in_child(self) -> None:
        """A forked child must not use a transport of its parent."""
        transport = without_shared(self._connector.transport)
        self._connector = self._connector._replace(transport=transport)

    def request_token(self, refresh_token: str | None) -> Response:
        """The response to the refresh token if there is one, otherwise to the password.

        Raises Failure and HttpError.
        """
        if refresh_token:
            grant = {"grant_type": "refresh_token", "refresh_token": refresh_token}
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
        raise Failure(LoginError(f"{self._origin} gives no token: {what}"), LOGIN_PAUSE)

    def _code(self) -> dict[str, str]:
        if self._otp is None:
            return {}
        try:
            return {"otp": self._otp()}
        except Exception as error:  # noqa: BLE001 - the caller's function
            what = f"No code for {self._origin}: otp raised {type(error).__name__}"
            raise Failure(LoginError(what), LOGIN_PAUSE) from None

    def _ask(self, grant: dict[str, str]) -> Response:
        """The response, once it accepts or rejects the grant. Retries while the service is busy."""
        attempts = 0
        while True:
            attempts += 1
            answer = self.post("/token", grant)
            if answer.status_code in (200, 400, 401):
                return answer
            seconds = _retry_after(answer)
            if seconds is None:
                what = f"{self._origin} answers a login with {answer.status_code}"
                raise Failure(ServiceUnavailableError(what), OUTAGE_PAUSE)
            if attempts == ATTEMPTS or seconds > LONGEST_WAIT:
                what = f"{self._origin} is busy and asks to wait {seconds:g} seconds"
                raise Failure(ServiceUnavailableError(what), max(seconds, OUTAGE_PAUSE))
            time.sleep(seconds)

    def post(self, path: str, form: dict[str, str]) -> Response:
        """On a new connection: there is one request an hour, and forks must not share it.

        Redirects are not followed. Raises HttpError.
        """
        headers = {
            "Accept": "application/json",
            "Accept-Encoding": "identity",
            "Content-Type": "application/x-www-form-urlencoded",
            "User-Agent": "HourpassAuth",
        }
        body = urlencode(form).encode()
        headers["Content-Length"] = str(len(body))
        limits = Limits(TIMEOUT, TIMEOUT, time.monotonic() + TIMEOUT)
        client = new_client(*self._connector)
        try:
            with client.stream("POST", path, headers, body, limits) as response:
                return Response(response.status, response.headers, _joined(response.pieces, limits))
        finally:
            client.close()


def _joined(pieces: Iterable[bytes], limits: Limits) -> bytes:
    body = b""
    for piece in pieces:
        body += piece
        limits.left(TIMEOUT)
        if len(body) > MAX_RESPONSE_BYTES:
            raise HttpError("too long")
    return body


def _error_of(answer: Response) -> object:
    try:
        return answer.json().get("error")
    except (ValueError, AttributeError):  # no JSON, or no object
        return None


def _retry_after(answer: Response) -> float | None:
    """The seconds to wait, if the service is busy and says so (RFC 9110, 10.2.3)."""
    said = answer.headers.get("Retry-After", "")
    busy = answer.status_code in (429, 503) and said.isascii() and said.isdigit()
    return min(float(said), LONGEST_PAUSE) if busy else None
