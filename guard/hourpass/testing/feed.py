"""The revocations of an Issuer, and how far each guard has read them."""

import errno
import json
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from threading import Condition, get_ident

from hourpass.guard.service_client import HEARTBEAT_SECONDS
from hourpass.testing.requests import Pieces, Request, Response

_READ_WITHIN_SECONDS = 10.0


class Feed:
    """Guards read it from their background threads, and wait for the next revocation."""

    def __init__(self) -> None:
        self.is_away = False
        self._revoked: list[dict[str, str]] = []
        self._changed = Condition()
        # By thread of a guard: the number of revocations that it has read, or -1.
        self._read_by: dict[int, int] = {}

    def add(self, value: str, now: datetime, keep: timedelta) -> None:
        """Returns when every guard has read it. Raises TimeoutError."""
        with self._changed:
            self._revoked.append({"value": value, "expires_at": (now + keep).isoformat()})
            self._changed.notify_all()
            if not self._changed.wait_for(self._is_read, _READ_WITHIN_SECONDS):
                raise TimeoutError("a guard does not follow the feed")

    def _is_read(self) -> bool:
        """Whether every guard asks for what comes after the last revocation."""
        return self.is_away or set(self._read_by.values()) <= {len(self._revoked)}

    def go_away(self) -> None:
        """Break off the requests that wait, as when the service becomes unreachable."""
        with self._changed:
            self.is_away = True
            self._changed.notify_all()

    def come_back(self) -> None:
        with self._changed:
            self.is_away = False
            self._read_by = dict.fromkeys(self._read_by, -1)

    def forget_reader(self) -> None:
        """The guard whose thread calls this stops reading."""
        with self._changed:
            self._read_by.pop(get_ident(), None)
            self._changed.notify_all()

    def page(self, request: Request, now: float) -> Response:
        query = request.url.params
        after, wait = int(query.get("after", "0")), int(query["wait"])
        with self._changed:
            self._read_by[get_ident()] = after if "after" in query else -1
            self._changed.notify_all()
        date = format_datetime(datetime.fromtimestamp(now, UTC), usegmt=True)
        return Response(200, {"Date": date}, Pieces(self._pieces_of_page(after, wait)))

    def _pieces_of_page(self, after: int, wait: int) -> Iterator[bytes]:
        """Heartbeats until there is a revocation or the wait ends, and then the page."""
        deadline = time.monotonic() + wait
        while (left := deadline - time.monotonic()) > 0:
            with self._changed:
                is_over = self._changed.wait_for(
                    lambda: self.is_away or len(self._revoked) > after,
                    min(left, HEARTBEAT_SECONDS),
                )
            if is_over:
                break
            if left > HEARTBEAT_SECONDS:
                yield b" "
        if self.is_away:
            raise ConnectionResetError(errno.ECONNRESET, "away")
        revoked = self._revoked[after:]
        page = {"revocations": revoked, "cursor": str(after + len(revoked)), "more": False}
        yield json.dumps(page).encode()
