"""Publishes revocations, and queries them in the database."""

import secrets
from collections.abc import Sequence
from datetime import datetime, timedelta

from sqlalchemy import ColumnElement, and_, event, exists, func, insert, select, update

from app.context import RequestContext
from app.database.base import UtcDateTime
from app.tokens.revocations.cache import RevocationCache
from app.tokens.revocations.models import Feed, Revocation
from app.tokens.signing_keys.keys import CLOCK_SKEW

# Revocations are kept for this much longer than tokens are valid. So a clock that is wrong by up to
# a day, on any host or in any guard, cannot make a revoked token valid again.
CLOCK_MARGIN = timedelta(days=1)


def is_not_revoked(values: Sequence[str]) -> ColumnElement[bool]:
    """A condition for a query: none of the values has been revoked."""
    return ~exists().where(Revocation.value.in_(values))


def has_expired() -> ColumnElement[bool]:
    """A condition for a query, by the database's clock, since the clocks of hosts may differ.

    The newest revocation never expires, because the cursors of waiting listeners refer to its row.
    """
    head = select(Feed.position).scalar_subquery()
    return and_(Revocation.expires_at <= func.current_timestamp(), Revocation.position < head)


class Revocations:
    """`lifetime` is that of a token. `cache` is the cache of this process, if it has one."""

    def __init__(self, lifetime: timedelta, cache: RevocationCache | None = None) -> None:
        self._kept_for = lifetime + CLOCK_SKEW + CLOCK_MARGIN
        self._cache = cache
        self.published = 0  # by this process

    async def publish(self, context: RequestContext, value: str) -> None:
        """Revoke the tokens with this value. Part of the caller's transaction, so that a change and
        its revocation are committed together."""
        await self.publish_all(context, [value])

    async def publish_all(self, context: RequestContext, values: Sequence[str]) -> None:
        """Like publish(), with one entry for each of the values."""
        if not values:
            return
        marks = [new_mark() for _ in values]
        now = func.current_timestamp(type_=UtcDateTime())
        published = await context.session.execute(
            update(Feed)
            .values(position=Feed.position + len(values), mark=marks[-1])
            .returning(Feed.position, now)
            .execution_options(synchronize_session=False)
        )
        position, published_at = published.one()
        self.published += len(values)
        expires_at: datetime = published_at + self._kept_for
        first = position - len(values) + 1
        await context.session.execute(
            insert(Revocation),
            [
                {
                    "position": first + index,
                    "value": value,
                    "mark": mark,
                    "expires_at": expires_at,
                }
                for index, (value, mark) in enumerate(zip(values, marks, strict=True))
            ],
        )
        if self._cache:
            # At the commit, so that no request after this one can use an outdated cache.
            cache = self._cache
            event.listen(
                context.session.sync_session,
                "after_commit",
                lambda _: cache.invalidate(),
                once=True,
            )

    async def publish_missing(self, context: RequestContext, values: Sequence[str]) -> int:
        """Publish those of the values that the feed lacks, and return their number."""
        # Locked first, so that no two workers publish the same ones.
        await context.session.execute(select(Feed.id).with_for_update())
        listed = set(
            await context.session.scalars(
                select(Revocation.value).where(Revocation.value.in_(values))
            )
        )
        missing = [value for value in values if value not in listed]
        await self.publish_all(context, missing)
        return len(missing)

    async def rename_feed(self, context: RequestContext) -> None:
        """Invalidate all cursors, so that all listeners read the feed from its beginning. Part of
        the caller's transaction."""
        await context.session.execute(update(Feed).values(name=secrets.token_hex(8)))


def new_mark() -> int:
    return secrets.randbits(63)
