"""Requests to the Hourpass service. A failed request or a malformed answer is an outage."""

import json
import logging
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Any, NamedTuple
from urllib.parse import urlencode

from hourpass.errors import ServiceUnavailableError
from hourpass.http.client import Client
from hourpass.http.connection import Headers, Limits
from hourpass.http.errors import HttpError, ReadTimeoutError, cause_of

ANSWER_SECONDS = 2.0  # time limit of an answer, on top of the `wait` in its request
# While a request waits for revocations, the service sends one byte of whitespace this often.
HEARTBEAT_SECONDS = 3
MAX_ANSWER_BYTES = 1 << 20  # the longest answer, a page of the feed, has about an eighth of that
MAX_VALUE_LENGTH = 200  # of a revocation, in characters; the service's have up to 60

# Bounds for how long the guard keeps a revocation, whatever the service says. A token is valid for
# an hour, or for a day at most. Another day is added for wrong clocks.
MIN_KEPT = timedelta(hours=1)
MAX_KEPT = timedelta(days=2)

_HEADERS = {
    "Accept": "application/json",
    "User-Agent": "hourpass-guard",
    # A compressing proxy would delay heartbeats, and a small body could become a large one.
    "Accept-Encoding": "identity",
    # A shared cache may have the keys of five minutes ago (RFC 9111, 5.2.1.4).
    "Cache-Control": "no-cache",
}
_FORM = {"Content-Type": "application/x-www-form-urlencoded"}
_WHITESPACE = b" \t\r\n"  # RFC 8259, 2

_log = logging.getLogger("hourpass.guard")


class OutageError(ServiceUnavailableError):
    """`cause` is for the log. It never quotes what was received."""

    def __init__(self, cause: str) -> None:
        super().__init__()
        self.cause = cause


class TooManyListenersError(OutageError):
    """The service answered 503 to a request that waits."""


class HeartbeatMissingError(OutageError):
    """The service is unreachable or sends no heartbeats, or a proxy delays them."""


class CursorRefusedError(OutageError):
    """410: the feed's history is not the one of the cursor."""


class FeedPage(NamedTuple):
    revoked: dict[str, float]  # value: seconds for which to keep it
    cursor: str
    more: bool


class _Question(NamedTuple):
    path: str
    query: dict[str, str] | None = None
    headers: dict[str, str] | None = None
    form: dict[str, str] | None = None  # of a POST

    @property
    def method(self) -> str:
        return "POST" if self.form else "GET"

    @property
    def body(self) -> bytes:
        return urlencode(self.form or {}).encode()

    @property
    def target(self) -> str:
        return f"{self.path}?{urlencode(self.query)}" if self.query else self.path

    def all_headers(self) -> dict[str, str]:
        of_body = {**_FORM, "Content-Length": str(len(self.body))} if self.form else {}
        return {**_HEADERS, **of_body, **(self.headers or {})}


class _Answer(NamedTuple):
    status: int
    headers: Headers
    body: bytes


class ServiceClient:
    def __init__(self, client: Client) -> None:
        self._client = client
        self._failing: set[str] = set()  # what the log says that the service could not do

    def issuer(self) -> str:
        """RFC 8414. The guard ignores the URLs in the metadata: they are for other clients."""
        issuer = _json(self._get("/.well-known/oauth-authorization-server")).get("issuer")
        if not isinstance(issuer, str):
            raise OutageError("malformed metadata")
        return issuer

    def jwks(self) -> list[dict[str, Any]]:
        """RFC 7517, 5. Empty if the service signs with a shared secret."""
        keys = _json(self._get("/.well-known/jwks.json")).get("keys")
        if not isinstance(keys, list) or not all(isinstance(key, dict) for key in keys):
            raise OutageError("malformed JWK Set")
        return keys

    def revocations(
        self, after: str | None, wait: int, on_heartbeats: Callable[[int], None] = lambda _: None
    ) -> FeedPage:
        """The page of the feed after that cursor. The service may wait for `wait` seconds if there
        is none yet; meanwhile `on_heartbeats` is called with the number of heartbeats so far.

        Raises HeartbeatMissingError, CursorRefusedError, TooManyListenersError and OutageError.
        """
        query = {"wait": str(wait), **({"after": after} if after else {})}
        answer = self._ask(_Question("/revocations", query), wait, on_heartbeats)
        if answer.status == 410 and after:
            raise CursorRefusedError("cursor refused")
        if answer.status == 503 and wait:
            raise TooManyListenersError("too many listeners")
        page = _json(_ok(answer))
        try:
            revoked = dict(_entries(page["revocations"], _date(answer.headers)))
        except (KeyError, TypeError, ValueError):
            raise OutageError("malformed feed") from None
        cursor, more = page.get("cursor"), page.get("more")
        if not isinstance(cursor, str) or not isinstance(more, bool) or (more and not revoked):
            raise OutageError("malformed feed")
        return FeedPage(revoked, cursor, more)

    def is_active(self, token: str, audience: str) -> bool:
        """Whether the service calls the token valid. The token must be ASCII. Older services
        ignore the audience: all of their tokens have the same.

        Raises OutageError.
        """
        with self._logging_first_failure("check a token"):
            bearer = {"Authorization": f"Bearer {token}"}
            answer = self._ask(_Question("/verify", {"audience": audience}, bearer))
            if answer.status != 401:
                _ok(answer)
        return answer.status != 401

    def exchange(self, key: str, audience: str) -> str | None:
        """The access token for an API key (RFC 8693, 2), or None if the service refuses the key.

        Raises OutageError.
        """
        form = {
            "grant_type": "urn:ietf:params:oauth:grant-type:token-exchange",
            "subject_token": key,
            "subject_token_type": "urn:hourpass:params:oauth:token-type:api_key",
            "audience": audience,
        }
        with self._logging_first_failure("exchange an API key"):
            answer = self._ask(_Question("/token", form=form))
            if answer.status == 400:
                # RFC 8693, 2.2.2. A service without this grant, or for other APIs, says otherwise.
                if _json(answer).get("error") == "invalid_request":
                    return None
                raise OutageError("status 400, but not for the key")
            token = _json(_ok(answer)).get("access_token")
            if not isinstance(token, str):
                raise OutageError("malformed token response")
        return token

    def close(self) -> None:
        """Must not be called during a request of another thread; see interrupt()."""
        self._client.close()

    def interrupt(self) -> None:
        """Make all requests of other threads fail at once."""
        self._client.interrupt()

    @contextmanager
    def _logging_first_failure(self, what: str) -> Iterator[None]:
        """Log the first of several failures only. The feed has its own connection and log lines."""
        try:
            yield
        except OutageError as error:
            if what not in self._failing:
                self._failing.add(what)
                _log.warning("The Hourpass service could not %s: %s", what, error.cause)
            raise
        self._failing.discard(what)

    def _get(self, path: str) -> _Answer:
        return _ok(self._ask(_Question(path)))

    def _ask(
        self,
        question: _Question,
        wait: int = 0,
        on_heartbeats: Callable[[int], None] = lambda _: None,
    ) -> _Answer:
        # A time limit for each piece, and one for the whole answer: it could arrive byte by byte.
        deadline = time.monotonic() + wait + ANSWER_SECONDS
        longest_silence = min(wait, HEARTBEAT_SECONDS) + ANSWER_SECONDS
        limits = Limits(ANSWER_SECONDS, longest_silence, deadline)
        with (
            self._failures_are_outages(is_long=wait > HEARTBEAT_SECONDS),
            self._client.stream(
                question.method,
                question.target,
                question.all_headers(),
                question.body,
                limits,
            ) as response,
        ):
            if response.headers.get("Content-Encoding", "identity") != "identity":
                raise OutageError("compressed, unasked")
            received, heartbeats = b"", 0
            for piece in response.pieces:
                received += piece
                if len(received) > MAX_ANSWER_BYTES:
                    raise OutageError("too long")
                if time.monotonic() > deadline:
                    raise OutageError("too slow")
                heartbeats_before = heartbeats
                # Bytes are counted, not pieces: a proxy may join pieces.
                heartbeats = min(_leading_whitespace(received), wait // HEARTBEAT_SECONDS)
                if heartbeats > heartbeats_before:
                    on_heartbeats(heartbeats)
            return _Answer(response.status, response.headers, received)

    @contextmanager
    def _failures_are_outages(self, *, is_long: bool) -> Iterator[None]:
        """Whatever goes wrong: callers of a check must not get an error that they do not know."""
        try:
            yield
        except OutageError:
            raise
        except ReadTimeoutError as error:
            raise (HeartbeatMissingError if is_long else OutageError)(error.cause) from None
        except HttpError as error:
            raise OutageError(error.cause) from None
        except Exception as error:  # noqa: BLE001 - as this says
            raise OutageError(cause_of(error)) from None


def _leading_whitespace(body: bytes) -> int:
    return len(body) - len(body.lstrip(_WHITESPACE))


def _ok(answer: _Answer) -> _Answer:
    if answer.status != 200:
        raise OutageError(f"status {answer.status}")
    return answer


def _json(answer: _Answer) -> dict[str, Any]:
    try:
        members = json.loads(answer.body)
    except (ValueError, RecursionError):
        raise OutageError("not JSON") from None
    if not isinstance(members, dict):
        raise OutageError("not a JSON object")
    return members


def _date(headers: Headers) -> datetime | None:
    """The service's time when it answered (RFC 9110, 6.6.1), or None."""
    try:
        date = parsedate_to_datetime(headers.get("Date", ""))
    except ValueError:
        return None
    return date if date.tzinfo else date.replace(tzinfo=UTC)


def _entries(
    entries: Iterable[dict[str, Any]], date: datetime | None
) -> Iterable[tuple[str, float]]:
    for entry in entries:
        if not isinstance(value := entry["value"], str) or len(value) > MAX_VALUE_LENGTH:
            raise ValueError("a value is a short string")
        expires_at = datetime.fromisoformat(entry["expires_at"])
        # Both times are of the service's clock, so the clock of this machine does not matter.
        left = expires_at - date if date else MAX_KEPT
        yield value, min(max(left, MIN_KEPT), MAX_KEPT).total_seconds()
