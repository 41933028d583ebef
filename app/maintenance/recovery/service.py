"""A background job that publishes revocations again if the database has lost them.

A standby that takes over, or a backup that is restored, may lack the last revocations. A worker
that has read them still rejects their tokens (revocations/cache.py). New workers and guards do not
know them, and the database still has what they revoked: the key that signs, the user's token
version, the group's version, the session, the API key. Tokens that are issued with those would be
rejected.
"""

import logging
from asyncio import Event
from collections.abc import Sequence
from contextlib import suppress

from sqlalchemy import delete, select

from app.background_jobs import wait_or_stop
from app.context import RequestContext
from app.credentials.api_keys.models import ApiKey
from app.credentials.sessions.models import Session
from app.database.engine import Database, begin_write
from app.database.failure_log import FailureLog
from app.database.fast_queries import current_time
from app.database.ids import parse_id
from app.database.locks import locked_in_order
from app.events import Events
from app.groups.models import Group
from app.tokens.revocations.cache import RevocationCache
from app.tokens.revocations.service import Revocations
from app.tokens.signing_keys.store import KeyNotFoundError, KeyStore
from app.users.models import User, new_token_version

CHECK_SECONDS = 0.5
BATCH_SIZE = 200  # of one transaction, which keeps all other revocations waiting

_log = logging.getLogger("hourpass.revocations")


class RevocationRecovery:
    name = "recovery"  # for metrics

    def __init__(
        self,
        database: Database,
        cache: RevocationCache,
        keys: KeyStore,
        revocations: Revocations,
        events: Events,
    ) -> None:
        self._database = database
        self._cache = cache
        self._keys = keys
        self._revocations = revocations
        self._events = events
        self._repaired = cache.history  # the last history whose losses have been published
        self.failures = FailureLog(_log, "Cannot publish lost revocations again")

    async def run(self, stopping: Event) -> None:
        while not await wait_or_stop(stopping, CHECK_SECONDS):
            try:
                await self.run_once()
            except Exception as error:  # noqa: BLE001 - any error is logged, and the job runs again
                self.failures.failed(error)
            else:
                self.failures.succeeded()

    async def run_once(self) -> None:
        """Does nothing unless the database has another history than at the last time."""
        if not self._cache.is_fresh() or self._cache.history == self._repaired:
            return
        history, lost = self._cache.history, self._cache.find_lost()
        published = 0
        for start in range(0, len(lost), BATCH_SIZE):
            published += await self._publish(lost[start : start + BATCH_SIZE])
        if published:
            _log.warning("Published %d revocations again that the database had lost", published)
        self._repaired = history

    async def _publish(self, values: Sequence[str]) -> int:
        """Returns how many of them no other worker has published. Locks in the order of all
        operations: users, groups, sessions, API keys, signing keys, the feed."""
        async with self._database.session() as session:
            context = RequestContext(session, await current_time(session))
            await begin_write(session)
            await _replace_token_versions(context, values)
            await _replace_group_versions(context, values)
            await session.execute(delete(Session).where(Session.id.in_(_after("sid:", values))))
            await _suspend_api_keys(context, values)
            for kid in _after("kid:", values):
                with suppress(KeyNotFoundError):
                    await self._keys.revoke(context, kid)
            missing = await self._revocations.publish_missing(context, values)
            if missing:
                await self._events.publish(
                    context, "service.republish", None, revocations=str(missing)
                )
            await session.commit()
        return missing


async def _replace_token_versions(context: RequestContext, values: Sequence[str]) -> None:
    parts = (value.partition(":") for value in _after("sub:", values))
    versions = {(parse_id(subject), int(version)) for subject, _, version in parts}
    users = await context.session.scalars(
        locked_in_order(
            select(User).where(User.id.in_({user_id for user_id, _ in versions})),
            User.id,
            key_share=True,
        )
    )
    for user in users.all():
        if (user.id, user.token_version) in versions:
            user.token_version = new_token_version()


async def _suspend_api_keys(context: RequestContext, values: Sequence[str]) -> None:
    """The database has lost a change of these keys: they may have been revoked. Their owners can
    resume them."""
    parts = (value.partition(".") for value in _after("sid:", values) if "." in value)
    versions = {(key_id, int(version)) for key_id, _, version in parts}
    api_keys = await context.session.scalars(
        locked_in_order(
            select(ApiKey).where(ApiKey.id.in_({key_id for key_id, _ in versions})), ApiKey.id
        )
    )
    for api_key in api_keys.all():
        if (api_key.id, api_key.version) in versions:
            api_key.suspended_at = api_key.suspended_at or context.now
            api_key.version += 1
    await context.session.flush()


async def _replace_group_versions(context: RequestContext, values: Sequence[str]) -> None:
    parts = (value.partition(".") for value in _after("grp:", values))
    versions = {(parse_id(group), int(version)) for group, _, version in parts}
    groups = await context.session.scalars(
        locked_in_order(
            select(Group).where(Group.id.in_({group_id for group_id, _ in versions})),
            Group.id,
            key_share=True,
        )
    )
    for group in groups.all():
        if (group.id, group.version) in versions:
            group.version = new_token_version()


def _after(prefix: str, values: Sequence[str]) -> list[str]:
    return [value.removeprefix(prefix) for value in values if value.startswith(prefix)]
