"""What a worker keeps of the feed: which entries and pages, until when, and how it reads them."""

import asyncio
import json
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from fastapi import FastAPI
from sqlalchemy import insert, text, update
from sqlalchemy.ext.asyncio import create_async_engine

from app.database.engine import Database, begin_write
from app.database.sqlite_driver import SqliteConnector
from app.main import create_app
from app.settings import Settings
from app.tokens.revocations import cache, entries
from app.tokens.revocations import feed as feed_module
from app.tokens.revocations.errors import CursorOfAnotherHistoryError, CursorUnknownError
from app.tokens.revocations.models import Feed, Revocation
from tests.support.markers import on_postgresql
from tests.support.settings import Clock
from tests.support.waiting import until


class Known(cache.RevocationCache):
    """Reads nothing by itself."""

    def is_fresh(self) -> bool:
        return True

    async def follow(self, stopping: asyncio.Event) -> None: ...

    def invalidate(self) -> None: ...


def entry(position: int, seconds_left: float = 3600.0, value: str = "") -> entries.FeedEntry:
    return entries.FeedEntry(position, 7 * position, value or f"jti:{position}", 0.0, seconds_left)


def head(position: int, name: str = "0123456789abcdef", mark: int | None = None) -> entries.Head:
    return entries.Head(name, position, 7 * position if mark is None else mark)


def listed(feed: entries.FeedEntries, cursor: entries.Head | None, now: float) -> list[str]:
    return values(feed.page_after(cursor and cursor.cursor, now))


def values(page: entries.Page) -> list[str]:
    return [listed["value"] for listed in json.loads(page.body)["revocations"]]


def test_revocations_published_while_the_feed_is_read_are_listed_once() -> None:
    known = Known()
    assert known._apply(head(2), 0, [entry(1)]) == 1, "to read on from there"
    assert known.head == head(1)
    assert known._apply(head(2), 1, [entry(1), entry(2), entry(3)]) is None
    assert known.head == head(3), "the head was read before the third one was published"
    assert listed(known.entries, None, 0) == ["jti:1", "jti:2", "jti:3"]


def test_a_feed_with_another_name_is_another_history_even_with_the_same_revocations(
    caplog: pytest.LogCaptureFixture,
) -> None:
    known, other = Known(), "f" * 16
    for number, name in enumerate((head(0).name, other), start=1):
        assert known._apply(head(0, name), 0, []) is None
        assert known.history == number
        assert len(caplog.messages) == number - 1
    assert known._apply(head(1, other), 0, [entry(1)]) is None
    assert known.history == number
    assert known._first_missing(head(1)) == 0
    assert known._apply(head(1), 0, [entry(1)]) is None
    assert known.history == number + 1


def test_while_another_history_is_read_nothing_is_fresh() -> None:
    known = cache.PostgresRevocationCache(
        create_async_engine("sqlite+aiosqlite://"), SqliteConnector("", 1)
    )
    known._apply(head(0), 0, [])
    known._queried_at = time.monotonic() + 3600  # however slow this machine is
    assert known.is_fresh()
    known._apply(head(0, "f" * 16), 0, [])
    assert not known.is_fresh()


def test_a_database_without_the_revocations_that_are_known_is_read_from_the_beginning() -> None:
    known = Known()
    known._apply(head(2), 0, [entry(1), entry(2)])
    assert known._apply(head(1), 2, []) == 0
    assert known._apply(head(2, mark=5), 2, [entry(2)._replace(mark=5)]) == 0


def test_a_revocation_counts_until_it_expires_and_is_then_removed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    known, now = Known(), 1000.0
    monkeypatch.setattr(cache, "monotonic", lambda: now)
    published = [entry(1, 5), entry(2, 0), entry(3, 0.5), entry(4, 60, "twice")]
    known._apply(head(5), 0, [*published, entry(5, 10, "twice")])
    assert list(known._forget_at) == ["jti:1", "jti:3", "twice"]
    now += 5
    known._extend(head(5), [])
    assert not known.is_revoked(["jti:1", "jti:3"])
    assert known.is_revoked(["twice"])
    assert list(known._forget_at) == ["twice"]
    now += 54
    known._extend(head(5), [])
    assert known.is_revoked(["twice"])


def test_a_cursor_is_known_as_long_as_no_listed_revocation_can_be_missing_after_it() -> None:
    feed = entries.FeedEntries()
    feed.extend(head(4), [entry(1, 0), entry(2, 0), entry(3, 0.5), entry(4)], 0)
    feed.extend(head(6), [entry(5, 0), entry(6)], 0)
    assert listed(feed, None, 0) == ["jti:3", "jti:4", "jti:6"]
    assert listed(feed, head(2), 0) == ["jti:3", "jti:4", "jti:6"]
    assert listed(feed, head(0, mark=9), 0) == ["jti:3", "jti:4", "jti:6"]
    assert listed(feed, head(6), 0) == []
    for cursor in (head(1), head(5), head(5, mark=6 * 7)):
        with pytest.raises(CursorUnknownError) as unknown:
            listed(feed, cursor, 0)
        assert unknown.type is CursorUnknownError
    for cursor in (head(7), head(4, mark=9)):
        with pytest.raises(CursorOfAnotherHistoryError):
            listed(feed, cursor, 0)


def test_the_cursor_of_a_feed_without_entries_is_known() -> None:
    feed = entries.FeedEntries()
    feed.extend(head(0), [], 0)
    assert listed(feed, head(0), 0) == []
    with pytest.raises(CursorUnknownError):
        listed(feed, head(0, mark=9), 0)
    feed.extend(head(2), [], 0)
    feed.extend(head(3), [entry(3)], 0)
    assert listed(feed, head(2), 0) == ["jti:3"]


def test_expired_entries_are_dropped_once_a_minute() -> None:
    feed = entries.FeedEntries()
    feed.extend(head(4), [entry(1, 10), entry(2, 60), entry(3, 61), entry(4)], 0)
    assert listed(feed, None, 0) == ["jti:1", "jti:2", "jti:3", "jti:4"]
    assert listed(feed, head(1), 59) == ["jti:2", "jti:3", "jti:4"]
    assert listed(feed, head(2), 59) == ["jti:3", "jti:4"]
    assert listed(feed, None, 60) == ["jti:3", "jti:4"]
    assert listed(feed, head(2), 60) == ["jti:3", "jti:4"]
    assert listed(feed, head(3), 60) == ["jti:4"]
    assert listed(feed, head(4), 60) == []
    with pytest.raises(CursorUnknownError):
        listed(feed, head(1), 60)
    assert listed(feed, None, 119) == ["jti:3", "jti:4"]
    assert listed(feed, None, 120) == ["jti:4"]


def test_pages_of_new_listeners_and_those_in_between_are_kept_apart(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(entries, "PAGE_SIZE", 2)
    feed = entries.FeedEntries()
    feed.extend(head(5), [entry(number) for number in range(1, 6)], 0)
    for cursor, expected, following in (
        (None, ["jti:1", "jti:2"], head(2)),
        (head(1), ["jti:2", "jti:3"], head(3)),
        (head(2), ["jti:3", "jti:4"], head(4)),
        (head(4), ["jti:5"], head(5)),
    ):
        rendered = feed.page_after(cursor and cursor.cursor, 0)
        page = json.loads(rendered.body)
        assert (values(rendered), page["cursor"]) == (expected, following.cursor)
        assert page["more"] is (following != head(5))
    assert set(feed._pages) == {0, 2, 4}
    assert set(feed._other_pages) == {1}


def test_pages_are_rendered_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(entries, "PAGE_SIZE", 2)
    feed = entries.FeedEntries()
    feed.extend(head(3), [entry(number) for number in range(1, 4)], 0)
    cursors = (None, head(2).cursor)
    full, last = (feed.page_after(cursor, 0) for cursor in cursors)
    for cursor, page in zip(cursors, (full, last), strict=True):
        assert feed.page_after(cursor, 0) is page
    feed.extend(head(4), [entry(4)], 0)
    assert feed.page_after(None, 0) is full, "a full page stays as it is"
    assert values(feed.page_after(cursors[1], 0)) == ["jti:3", "jti:4"]


def test_rendered_pages_take_a_bounded_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(entries, "MAX_OTHER_PAGES", 3)
    feed = entries.FeedEntries()
    feed.extend(head(6), [entry(number) for number in range(1, 7)], 0)
    for position in range(1, 7):
        assert len(listed(feed, head(position), 0)) == 6 - position
        assert len(feed._other_pages) <= 3


# How it reads the feed


async def test_a_cache_is_not_fresh_once_its_service_has_stopped(
    settings: Settings, clock: Clock
) -> None:
    app = create_app(settings, clock, clock)
    async with app.router.lifespan_context(app):
        known = app.state.revocation_cache
        await until(known.is_fresh)
    await until(lambda: not known.is_fresh())


@on_postgresql
@pytest.mark.parametrize("table", ["revocation_feed", "revocations"])
async def test_a_poll_without_an_answer_times_out_and_closes_its_connection(
    app: FastAPI,
    database: Database,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    table: str,
) -> None:
    known = app.state.revocation_cache
    polled: list[Any] = []
    poll = known._poll

    async def note(driver: Any) -> None:
        polled.append(driver)
        await poll(driver)

    monkeypatch.setattr(known, "_poll", note)
    await until(lambda: bool(polled) and known.is_fresh())
    async with database.session() as session:
        await begin_write(session)
        await session.execute(text(f"LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE"))
        if table == "revocations":  # which is only read when the head has moved
            await session.execute(insert(Revocation), [row_at(1)])
            async with database.session() as another:
                await begin_write(another)
                await another.execute(update(Feed).values(position=1, mark=7))
                await another.commit()
        hung = polled[-1]
        monkeypatch.setattr(cache, "_QUERY_TIMEOUT_SECONDS", 0.2)
        await until(lambda: "Cannot poll revocations" in caplog.messages)
        await session.commit()
    await until(lambda: polled[-1] is not hung and known.is_fresh())
    assert hung.is_closed()


def row_at(position: int) -> dict[str, Any]:
    later = datetime.now(UTC) + timedelta(hours=1)
    value = f"jti:{position}"
    return {"position": position, "value": value, "mark": 7 * position, "expires_at": later}


def test_times_of_sqlite_are_utc_whatever_the_zone_of_the_host(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with monkeypatch.context() as abroad:
        abroad.setenv("TZ", "Asia/Tokyo")
        time.tzset()
        try:
            read = cache._sqlite_entry((1, 7, "jti:1", "2026-11-23 12:00:00.000000", 5.0))
        finally:
            abroad.undo()
            time.tzset()
    assert read.expires_at == datetime(2026, 11, 23, 12, tzinfo=UTC).timestamp()


async def test_a_feed_of_many_batches_is_read_to_its_end(
    settings: Settings, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A start and a later addition may each take more than one query."""
    for name in ("_SQLITE_SINCE", "_POSTGRES_SINCE"):
        query = getattr(cache, name)
        assert f"LIMIT {cache._BATCH}" in query
        monkeypatch.setattr(cache, name, query.replace(f"LIMIT {cache._BATCH}", "LIMIT 5"))
    number = 2 * 5 + 1
    app = create_app(settings, clock, clock)
    async with app.router.lifespan_context(app):
        for first in (1, number + 1):
            await insert_revocations(app.state.database, first, number)
            await until(lambda: has_read(app, first + number - 1))  # noqa: B023 - awaited here
    app = create_app(settings, clock, clock)
    async with app.router.lifespan_context(app):
        await until(app.state.revocation_cache.is_fresh)
        assert has_read(app, 2 * number)
        assert app.state.revocation_cache.history == 1


def has_read(app: FastAPI, number: int) -> bool:
    """All of them, and each once."""
    known: cache.RevocationCache = app.state.revocation_cache
    known.is_fresh()  # on SQLite, this reads
    return known.entries._positions.tolist() == list(range(1, number + 1))


async def insert_revocations(database: Database, first: int, number: int) -> None:
    async with database.session() as session:
        await begin_write(session)
        rows = [row_at(position) for position in range(first, first + number)]
        await session.execute(insert(Revocation), rows)
        head = {name: rows[-1][name] for name in ("position", "mark")}
        await session.execute(update(Feed).values(**head))
        await session.commit()


def test_the_numbers_that_the_readme_and_the_description_of_the_feed_give() -> None:
    numbers = (cache.FRESH_SECONDS, feed_module.HEARTBEAT_SECONDS, feed_module.MAX_WAIT_SECONDS)
    assert numbers == (0.1, 3, 30)
    assert cache.MAX_FRESH_SECONDS == 0.2
    assert feed_module.WARNING_SECONDS == 3600
