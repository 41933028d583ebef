"""An issuer whose responses a test decides, piece by piece if necessary."""

import time
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from queue import Queue
from typing import Any

import httpx

from hourpass import Guard
from hourpass.guard.verification_state import VerificationState
from hourpass.testing import Issuer, MovableClock
from tests.support.guards import SOON_SECONDS

KEYS_PATH = "/.well-known/jwks.json"


class StillClock(MovableClock):
    """Stands still unless a test moves it. Its wall clock can be set by itself."""

    def __init__(self) -> None:
        super().__init__()
        self._wall = time.time()
        self._running = 1_000.0

    def time(self) -> float:
        return self._wall

    def monotonic(self) -> float:
        return self._running

    def advance(self, span: timedelta) -> None:
        self._wall += span.total_seconds()
        self._running += span.total_seconds()

    def set_wall_clock(self, by: timedelta) -> None:
        self._wall += by.total_seconds()


def guarded(by: Issuer, **options: Any) -> Guard:
    guard = Guard("https://hourpass.example", **options)
    by.attach(guard)
    return guard


def state_of(guard: Guard) -> VerificationState:
    assert guard._feed.state
    return guard._feed.state


def answers(
    issuer: Issuer, path: str, response: Callable[[httpx.Request], httpx.Response | None]
) -> None:
    """Make the issuer respond so at this path, unless the response is None. The issuer's requests
    and responses have the attributes of httpx's that tests use."""
    as_before: Callable[[Any], Any] = issuer.answer

    def answer(request: Any) -> Any:
        other = response(request) if request.url.path == path else None
        return other or as_before(request)

    issuer.answer = answer  # type: ignore[method-assign] # a test's own issuer


def page(
    values: Iterable[str],
    cursor: str,
    *,
    date: datetime | None = None,
    expires_in: timedelta = timedelta(hours=25),
    more: bool = False,
) -> httpx.Response:
    """A page of a feed, the last one unless there is `more`, by a clock of its own."""
    now = date or datetime.now(UTC)
    expires_at = (now + expires_in).isoformat()
    listed = [{"value": value, "expires_at": expires_at} for value in values]
    body = {"revocations": listed, "cursor": cursor, "more": more}
    headers = {"Date": format_datetime(now, usegmt=True)}
    return httpx.Response(200, json=body, headers=headers)


class HeldBack(httpx.SyncByteStream):
    """An answer that arrives as the test sends it."""

    def __init__(self) -> None:
        self._pieces: Queue[bytes | Exception | None] = Queue()

    def __iter__(self) -> Iterator[bytes]:
        while (piece := self._pieces.get()) is not None:
            if isinstance(piece, Exception):
                raise piece
            yield piece

    def send(self, piece: bytes | Exception) -> None:
        self._pieces.put(piece)

    def end(self, *values: str, cursor: str = "0") -> None:
        self.send(page(values, cursor).content)
        self._pieces.put(None)

    def break_off(self) -> None:
        self._pieces.put(None)


class Waiting:
    """Requests of a guard that wait for revocations. The issuer answers all others."""

    def __init__(self, issuer: Issuer) -> None:
        self._questions: Queue[HeldBack] = Queue()
        self._all: list[HeldBack] = []
        answers(issuer, "/revocations", self._answer)

    def _answer(self, request: httpx.Request) -> httpx.Response | None:
        if request.url.params["wait"] == "0":
            return None
        answer = HeldBack()
        self._all.append(answer)
        self._questions.put(answer)
        return httpx.Response(200, stream=answer)

    def next(self) -> HeldBack:
        return self._questions.get(timeout=SOON_SECONDS)

    def break_off(self) -> None:
        for answer in self._all:
            answer.break_off()
