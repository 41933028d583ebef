"""Publishing revocations, asking for them, and reading them in their order."""

import asyncio
import re
from collections.abc import Sequence
from datetime import datetime, timedelta

from sqlalchemy import ColumnElement, event, exists, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from app.revocations.errors import CursorUnknownError, TooManyListenersError
from app.revocations.models import Feed, Revocation
from app.revocations.news import News
from app.tokens.keys import CLOCK_SKEW

PAGE_SIZE = 1_000
MAX_LISTENERS = 1_000
TICK_SECONDS = 0.025

_CURSOR = re.compile(r"([0-9a-f]{16})\.([0-9]{1,18})")


def not_revoked(values: Sequence[str]) -> ColumnElement[bool]:
    """A condition for a query: none of the values has been revoked."""
    return ~exists().where(Revocation.value.in_(values))


class Revocations:
    """`lifetime` is how long a token can live, and so how long its revocation has to be known.
    `news` is this process's own memory of revocations, if it has one."""

    def __init__(
        self, session: AsyncSession, lifetime: timedelta, news: News | None = None
    ) -> None:
        self._session = session
        self._lifetime = lifetime
        self._news = news

    async def publish(self, value: str, now: datetime) -> None:
        """Part of its caller's transaction, which commits the deed and the news of it together."""
        position = await self._session.scalar(
            update(Feed).values(position=Feed.position + 1).returning(Feed.position)
        )
        self._session.add(
            Revocation(position=position, value=value, expires_at=now + self._lifetime + CLOCK_SKEW)
        )
        if self._news:
            # Before the answer to this request can be followed by another one.
            news = self._news
            event.listen(
                self._session.sync_session, "after_commit", lambda _: news.distrust(), once=True
            )

    async def read(
        self, cursor: str | None, now: datetime
    ) -> tuple[Sequence[Revocation], str, bool]:
        """What was published after the cursor and has not expired, the next cursor, and whether
        there is more.

        Raises CursorUnknownError.
        """
        feed = (await self._session.scalars(select(Feed))).one()
        after = _position(cursor, feed) if cursor else 0
        rows = (
            await self._session.scalars(
                select(Revocation)
                .where(Revocation.position > after, Revocation.expires_at > now)
                .order_by(Revocation.position)
                .limit(PAGE_SIZE)
            )
        ).all()
        await self._session.commit()
        more = len(rows) == PAGE_SIZE
        # The head was read first: whatever was published since is left for the next call.
        reached = rows[-1].position if rows else 0
        reached = reached if more else max(reached, feed.position)
        return rows, f"{feed.name}.{reached}", more


def _position(cursor: str, feed: Feed) -> int:
    match = _CURSOR.fullmatch(cursor)
    if match is None or match[1] != feed.name or int(match[2]) > feed.position:
        raise CursorUnknownError
    return int(match[2])


class Watch:
    """Wakes whoever waits for news. One look per tick serves all of a worker's listeners, and there
    is none while nobody listens."""

    def __init__(self, news: News, ending: asyncio.Event) -> None:
        self._news = news
        self._ending = ending
        self._listeners = 0
        self._moved = asyncio.Condition()
        self._ticker: asyncio.Task[None] | None = None

    async def wait_beyond(self, cursor: str, seconds: float) -> None:
        """Return when something has been published after the cursor, or when time is up, or the
        service ends.

        Raises TooManyListenersError.
        """

        def is_over() -> bool:
            return self._news.position > position or self._ending.is_set()

        if self._listeners >= MAX_LISTENERS:
            raise TooManyListenersError
        position = int(cursor.rpartition(".")[2])
        self._listeners += 1
        if self._ticker is None or self._ticker.done():
            self._ticker = asyncio.create_task(self._tick())
        try:
            async with asyncio.timeout(seconds), self._moved:
                await self._moved.wait_for(is_over)
        except TimeoutError:
            pass
        finally:
            self._listeners -= 1

    def close(self) -> None:
        if self._ticker:
            self._ticker.cancel()

    async def _tick(self) -> None:
        while self._listeners:
            self._news.is_current()  # looks, where looking is what it takes
            async with self._moved:
                self._moved.notify_all()
            await asyncio.sleep(TICK_SECONDS)
