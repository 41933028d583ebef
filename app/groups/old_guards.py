"""Older guards do not read the claim `grp`, so they accept a token although its group has fewer
scopes now. For them, the access tokens of all members are revoked as well, by their users.

A group can have any number of members, and a revocation of each is a write. So the transaction that
narrows the group only notes its members, in one statement. Then a job revokes their tokens in
slices. A crash loses nothing: the rows of a slice are deleted in the transaction that revokes.
"""

import logging
from asyncio import Event as StopEvent

from sqlalchemy import delete, select

from app.background_jobs import wait_or_stop
from app.context import RequestContext
from app.database.engine import Database, begin_write
from app.database.failure_log import FailureLog
from app.database.fast_queries import current_time
from app.database.locks import locked_in_order
from app.database.upserts import upsert
from app.events import Event
from app.groups.models import GroupMember, PendingRevocation
from app.groups.service import REVOKED, RevokeAccessTokens
from app.tokens.revocations.cache import RevocationCache
from app.tokens.revocations.entries import Head
from app.users.models import User

NARROWING_ACTIONS = ("group.update", "group.delete")
CHECK_SECONDS = 0.5
SLICE_SIZE = 200  # of one transaction, which keeps all other writers of SQLite waiting
PAUSE_SECONDS = 0.05  # after each, for those writers

_log = logging.getLogger("hourpass.groups")


async def note_members(context: RequestContext, event: Event) -> None:
    """A subscriber. The group is locked, and its members are still there."""
    if event.details.get("tokens") != REVOKED:
        return
    group_id = int(event.details["group"])
    members = select(GroupMember.user_id).where(GroupMember.group_id == group_id)
    # In the order of the ids, so that two groups with the same members cannot end in a deadlock.
    await context.session.execute(
        upsert(context.session, PendingRevocation)
        .from_select(["user_id"], members.order_by(GroupMember.user_id))
        .on_conflict_do_nothing()
    )


class OldGuardsJob:
    """Every worker runs it. It asks the database only after something has been revoked."""

    name = "old_guards"  # for metrics

    def __init__(
        self,
        database: Database,
        cache: RevocationCache,
        revoke_access_tokens: RevokeAccessTokens,
    ) -> None:
        self._database = database
        self._cache = cache
        self._revoke_access_tokens = revoke_access_tokens
        self._finished_at: Head | None = None  # the feed's head when nothing was left to do
        self.failures = FailureLog(_log, "Cannot revoke the tokens of a group's members")

    async def run(self, stopping: StopEvent) -> None:
        while not await wait_or_stop(stopping, CHECK_SECONDS):
            try:
                while await self.run_once() and not await wait_or_stop(stopping, PAUSE_SECONDS):
                    pass
            except Exception as error:  # noqa: BLE001 - any error is logged, and the job runs again
                self.failures.failed(error)
            else:
                self.failures.succeeded()

    async def run_once(self) -> bool:
        """Revoke one slice. Returns whether there was any."""
        if not self._cache.is_fresh() or (head := self._cache.head) == self._finished_at:
            return False
        async with self._database.session() as session:
            first = select(PendingRevocation.user_id).order_by(PendingRevocation.user_id)
            found = (await session.scalars(first.limit(SLICE_SIZE))).all()
            if not found:
                self._finished_at = head
                return False
            context = RequestContext(session, await current_time(session))
            await begin_write(session)
            # Users first, as everywhere. Another worker may have been faster with these.
            users = select(User.id).where(User.id.in_(found))
            await session.execute(locked_in_order(users, User.id, key_share=True))
            is_of_slice = PendingRevocation.user_id.in_(found)
            taken = await session.scalars(
                delete(PendingRevocation).where(is_of_slice).returning(PendingRevocation.user_id)
            )
            await self._revoke_access_tokens(context, taken.all())
            await session.commit()
        return True
