"""What is asked of the Hourpass service over HTTP. Whatever is not an answer is an outage."""

import json
import socket
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from threading import Lock
from typing import Any, NamedTuple
from weakref import WeakSet

import httpx

from hourpass.errors import ServiceUnavailableError

ANSWER_SECONDS = 2.0  # that any answer may take, besides those that it was asked to wait
# While the service waits for news, it sends one byte of whitespace in so many seconds.
HEARTBEAT_SECONDS = 3
MAX_ANSWER_BYTES = 1 << 20  # a page of the feed, the longest answer, has about an eighth of that
MAX_VALUE_LENGTH = 200  # of a revocation, in characters; the service's have up to 60

# How long a revocation is kept. The service says for how long, and is believed within these bounds:
# a token lives an hour, or a day at most, and a day is added for clocks that are wrong.
MIN_KEPT = timedelta(hours=1)
MAX_KEPT = timedelta(days=2)

# Waiting for more connections than these is an outage too: a flood must not pile up here.
_LIMITS = httpx.Limits(
    max_connections=16,
    # Closed well before the service would (uvicorn: 5 s), so that none is lost in mid-question.
    keepalive_expiry=2,
)
_HEADERS = {
    # A compressing proxy would keep heartbeats back, and a small body could become a large one.
    "Accept-Encoding": "identity",
    # A shared cache may have the keys of five minutes ago (RFC 9111, 5.2.1.4).
    "Cache-Control": "no-cache",
}
_WHITESPACE = b" \t\r\n"  # RFC 8259, 2


class OutageError(ServiceUnavailableError):
    """`cause` is for the log, and never quotes what was received."""

    def __init__(self, cause: str) -> None:
        super().__init__()
        self.cause = cause


class TooManyListenersError(OutageError):
    """The service answers, but lets nobody more wait for news."""


class HeartbeatMissingError(OutageError):
    """The service is away, or too old to send any, or a proxy collects them."""


class CursorRefusedError(OutageError):
    """The feed is another one than that which was followed."""


class Page(NamedTuple):
    revoked: dict[str, float]  # value: seconds for which to keep it
    cursor: str
    more: bool


class _Answer(NamedTuple):
    status: int
    headers: httpx.Headers
    body: bytes


class Service:
    def __init__(self, url: httpx.URL, transport: httpx.BaseTransport | None) -> None:
        self._client = httpx.Client(
            base_url=url,
            transport=transport,
            timeout=ANSWER_SECONDS,
            limits=_LIMITS,
            headers=_HEADERS,
        )
        self._interrupting = Lock()
        self._is_interrupted = False
        self._streams: WeakSet[Any] = WeakSet()  # httpcore.NetworkStream

    def issuer(self) -> str:
        """RFC 8414. Of the addresses in there none is used: they are for clients elsewhere."""
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
    ) -> Page:
        """The next page of the feed, having waited for news if there is none yet.

        `on_heartbeats` is called with the number of all heartbeats whenever it has grown.

        Raises HeartbeatMissingError, CursorRefusedError and TooManyListenersError.
        """
        query = {"wait": str(wait), **({"after": after} if after else {})}
        answer = self._ask("/revocations", query, wait=wait, on_heartbeats=on_heartbeats)
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
        return Page(revoked, cursor, more)

    def vouches_for(self, token: str) -> bool:
        """Whether the token holds. The token has to be ASCII."""
        headers = {"Authorization": f"Bearer {token}"}
        answer = self._ask("/verify", headers=headers)
        if answer.status == 401:
            return False
        _ok(answer)
        return True

    def close(self) -> None:
        """Not while another thread asks; see interrupt()."""
        self._client.close()

    def interrupt(self) -> None:
        """Let every question that other threads are asking fail at once."""
        with self._interrupting:
            self._is_interrupted = True
            for stream in self._streams:
                _shut_down(stream)

    def _trace(self, event: str, info: dict[str, Any]) -> None:
        """httpcore's way to tell which connections it opens."""
        if event.endswith((".connect_tcp.complete", ".start_tls.complete")):
            with self._interrupting:
                self._streams.add(info["return_value"])
                if self._is_interrupted:
                    _shut_down(info["return_value"])

    def _get(self, path: str) -> _Answer:
        return _ok(self._ask(path))

    def _ask(
        self,
        path: str,
        query: dict[str, str] | None = None,
        headers: dict[str, str] | None = None,
        wait: int = 0,
        on_heartbeats: Callable[[int], None] = lambda _: None,
    ) -> _Answer:
        deadline = time.monotonic() + wait + ANSWER_SECONDS
        # Each piece has its time, and the whole as well: a trickle is no answer.
        timeout = httpx.Timeout(ANSWER_SECONDS, read=min(wait, HEARTBEAT_SECONDS) + ANSWER_SECONDS)
        with (
            _failures_are_outages(is_long=wait > HEARTBEAT_SECONDS),
            self._client.stream(
                "GET",
                path,
                params=query,
                headers=headers,
                timeout=timeout,
                extensions={"trace": self._trace},
            ) as response,
        ):
            if response.headers.get("Content-Encoding", "identity") != "identity":
                raise OutageError("compressed, unasked")
            body, heartbeats = b"", 0
            for piece in response.iter_bytes():
                body += piece
                if len(body) > MAX_ANSWER_BYTES:
                    raise OutageError("too long")
                if time.monotonic() > deadline:
                    raise OutageError("too slow")
                heartbeats_before = heartbeats
                # Bytes, not pieces: whoever passes them on may join them.
                heartbeats = min(_leading_whitespace(body), wait // HEARTBEAT_SECONDS)
                if heartbeats > heartbeats_before:
                    on_heartbeats(heartbeats)
            return _Answer(response.status_code, response.headers, body)


@contextmanager
def _failures_are_outages(*, is_long: bool) -> Iterator[None]:
    try:
        yield
    except httpx.HTTPError as error:
        is_late = is_long and isinstance(error, httpx.ReadTimeout)
        raise (HeartbeatMissingError if is_late else OutageError)(type(error).__name__) from None
    except RuntimeError:  # httpx has no class of its own for it
        raise OutageError("closed meanwhile") from None


def _shut_down(stream: Any) -> None:
    """Wakes whoever reads from it. The file descriptor stays theirs, so that it cannot meanwhile
    become another connection's. TLS is passed by: to end it would let a writer go on in plain."""
    with suppress(OSError):  # closed already
        socket.socket.shutdown(stream.get_extra_info("socket"), socket.SHUT_RDWR)


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


def _date(headers: httpx.Headers) -> datetime | None:
    """What time it was where the answer was made (RFC 9110, 6.6.1)."""
    try:
        date = parsedate_to_datetime(headers["Date"])
    except (KeyError, ValueError):
        return None
    return date if date.tzinfo else date.replace(tzinfo=UTC)


def _entries(
    entries: Iterable[dict[str, Any]], date: datetime | None
) -> Iterable[tuple[str, float]]:
    for entry in entries:
        if not isinstance(value := entry["value"], str) or len(value) > MAX_VALUE_LENGTH:
            raise ValueError("a value is a short string")
        expires_at = datetime.fromisoformat(entry["expires_at"])
        # The service's own clock on both sides: what this machine's says has no part in it.
        left = expires_at - date if date else MAX_KEPT
        yield value, min(max(left, MIN_KEPT), MAX_KEPT).total_seconds()
