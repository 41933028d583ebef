"""The unexpired entries of the feed, in memory and in order, and their pages as rendered JSON.

Pages are rendered at most once a minute, and all listeners get the same bytes: a thousand guards
request the same few pages.
"""

import re
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import NamedTuple

from pydantic_core import to_json

from app.tokens.revocations.errors import CursorOfAnotherHistoryError, CursorUnknownError

PAGE_SIZE = 1_000
MAX_OTHER_PAGES = 64  # cached besides the pages that a new listener reads; 90 KB each at most
FORGET_SECONDS = 60.0

_CURSOR = re.compile(r"([0-9a-f]{16})\.(0|[1-9][0-9]{0,18})\.([0-9a-f]{16})")


class Head(NamedTuple):
    """The feed's name, its last position, and the mark of the revocation there."""

    name: str
    position: int
    mark: int

    @property
    def cursor(self) -> str:
        return f"{self.name}.{self.position}.{self.mark:016x}"


class FeedEntry(NamedTuple):
    position: int
    mark: int
    value: str
    expires_at: float  # seconds since 1970, by the database's clock
    seconds_left: float


class Page(NamedTuple):
    body: bytes  # a RevocationPage
    is_empty: bool
    is_last: bool


class FeedEntries:
    """Stores entries as columns instead of objects, to save memory. A million entries take some 130
    MB, and their pages 90 MB."""

    def __init__(self) -> None:
        self.head = Head("", 0, 0)
        # The newest position that is no longer listed, and its mark. A listener that has received
        # nothing for a day still has that cursor.
        self._floor = (0, 0)
        self._positions = array("q")
        self._marks = array("q")
        self._expire_at = array("d")
        self._forget_at = array("d")  # on the monotonic clock
        self._values: list[str] = []
        self._forgot_at = float("-inf")
        # By the index of their first entry. `_pages` has those that a new listener reads one after
        # the other, `_other_pages` has those for cursors in between.
        self._pages: dict[int, Page] = {}
        self._other_pages: dict[int, Page] = {}

    def extend(self, head: Head, entries: Sequence[FeedEntry], now: float) -> None:
        """Append entries. `now` is monotonic."""
        if not self._positions:
            self._floor = self.head[1:]
        for entry in entries:
            if entry.seconds_left <= 0:
                if not self._positions:
                    self._floor = entry[:2]
                continue
            self._positions.append(entry.position)
            self._marks.append(entry.mark)
            self._expire_at.append(entry.expires_at)
            self._forget_at.append(now + entry.seconds_left)
            self._values.append(entry.value)
        self.head = head
        self._pages = {start: page for start, page in self._pages.items() if not page.is_last}
        self._other_pages.clear()

    def values(self) -> set[str]:
        return set(self._values)

    def forget_expired(self, now: float) -> None:
        """Removes them at most once a minute, because all pages must then be rendered again."""
        if now < self._forgot_at + FORGET_SECONDS:
            return
        self._forgot_at = now
        expired = 0
        while expired < len(self._forget_at) and self._forget_at[expired] <= now:
            expired += 1
        if expired:
            self._floor = (self._positions[expired - 1], self._marks[expired - 1])
            columns = (self._positions, self._marks, self._expire_at, self._forget_at)
            for column in (*columns, self._values):
                del column[:expired]
            self._pages.clear()
            self._other_pages.clear()

    def page_after(self, cursor: str | None, now: float) -> Page:
        """Raises CursorUnknownError."""
        self.forget_expired(now)
        start = bisect_right(self._positions, self._position_of(cursor) if cursor else 0)
        pages = self._other_pages if start % PAGE_SIZE else self._pages
        page = pages.get(start)
        if page is None:
            page = pages[start] = self._render(start)
            if len(self._other_pages) > MAX_OTHER_PAGES:
                del self._other_pages[next(iter(self._other_pages))]
        return page

    def _position_of(self, cursor: str) -> int:
        match = _CURSOR.fullmatch(cursor)
        if match is None or match[1] != self.head.name:
            raise CursorUnknownError
        position, mark = int(match[2]), int(match[3], 16)
        if position > self.head.position:
            raise CursorOfAnotherHistoryError
        if mark == (expected := self._mark_at(position)) or (position == 0 < self.head.position):
            return position  # nothing comes before position 0
        raise CursorUnknownError if expected is None else CursorOfAnotherHistoryError

    def _mark_at(self, position: int) -> int | None:
        """The mark at a position, or None if the revocation there is no longer known."""
        for known, mark in (self.head[1:], self._floor):
            if position == known:
                return mark
        index = bisect_left(self._positions, position)
        is_there = index < len(self._positions) and self._positions[index] == position
        return self._marks[index] if is_there else None

    def _render(self, start: int) -> Page:
        end = min(start + PAGE_SIZE, len(self._positions))
        more = end < len(self._positions)
        head = self.head
        if more:
            head = Head(head.name, self._positions[end - 1], self._marks[end - 1])
        page = {
            "revocations": [
                {"value": value, "expires_at": datetime.fromtimestamp(expires_at, UTC)}
                for value, expires_at in zip(
                    self._values[start:end], self._expire_at[start:end], strict=True
                )
            ],
            "cursor": head.cursor,
            "more": more,
        }
        return Page(to_json(page), is_empty=start == end, is_last=not more)
