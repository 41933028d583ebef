"""Carries over to a restored database what was revoked since its backup.

The former database is compared row by row. What was revoked, disabled or deleted there is revoked
here too. Nothing else is taken over, neither rights nor passwords nor new rows, because an
attacker or a mistake may have changed it. Where the reason of a change is not known, API keys are
suspended and passwords have to be reset.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

from sqlalchemy import Row, delete, select
from sqlalchemy.ext.asyncio import AsyncSession

from app.accounts.first_admin.models import SetupStep
from app.context import RequestContext
from app.credentials.api_keys.models import ApiKey
from app.credentials.second_factors.models import RecoveryCode, SecondFactor
from app.credentials.sessions.models import Session
from app.database import sequences
from app.groups.models import Group, GroupMember
from app.mail.models import OutgoingMail
from app.operations.backup import comparison
from app.operations.backup.comparison import changed_keys, in_batches
from app.security.one_time_codes.models import Code
from app.services import Services
from app.tokens.jwt import PERSON
from app.tokens.revocations.models import Revocation
from app.tokens.signing_keys.models import StoredKey
from app.users.models import UNUSABLE_PASSWORD, User, new_token_version
from app.webhooks.models import WebhookDelivery, WebhookEndpoint
from hourpass.scopes import intersection

_Row = Row[*tuple[Any, ...]]

_USER_COLUMNS = (
    User.id,
    User.is_enabled,
    User.is_admin,
    User.scopes,
    User.token_version,
    User.password_hash,
    User.email,
    User.email_verified_at,
)


@dataclass(slots=True)
class Changes:
    """What was carried over: usernames, and numbers of rows."""

    disabled: list[str] = field(default_factory=list)
    demoted: list[str] = field(default_factory=list)
    passwords: list[str] = field(default_factory=list)
    emails: list[str] = field(default_factory=list)
    second_factors: list[str] = field(default_factory=list)  # removed or replaced
    api_keys: int = 0
    groups: int = 0
    sessions: int = 0
    codes: int = 0
    signing_keys: int = 0
    webhooks: int = 0
    revocations: int = 0


class CarryOver:
    """One run, as part of the caller's transaction on the restored database."""

    def __init__(self, services: Services, context: RequestContext, former: AsyncSession) -> None:
        self._services = services
        self._context = context
        self._restored = context.session
        self._former = former
        self._revoked: list[str] = []  # for the feed
        self.changes = Changes()

    async def run(self) -> Changes:
        await self._compare_users()
        await self._compare_second_factors()
        await self._compare_groups()
        changes = self.changes
        changes.sessions = await self._delete_changed(Session.id, Session.secret_hash)
        changes.codes = await self._delete_changed(Code.id)
        await self._delete_changed(RecoveryCode.code_hash)
        for queued in (OutgoingMail.id, WebhookDelivery.id):  # what is missing was sent
            await self._delete_changed(queued)
        await self._compare_webhooks()
        await self._compare_api_keys()
        await self._compare_signing_keys()
        await self._add_setup_steps()
        await self._restored.flush()
        await self._publish()
        await self._advance_ids()
        return changes

    async def _compare_users(self) -> None:
        last, size = 0, comparison.BATCH_SIZE
        while True:
            page = select(*_USER_COLUMNS).where(User.id > last).order_by(User.id).limit(size)
            restored = (await self._restored.execute(page)).all()
            until = restored[-1].id if len(restored) == size else None
            former = await self._former_users(last, until)
            changed = {
                row.id: former.get(row.id) for row in restored if _differs(row, former.get(row.id))
            }
            await self._restrict_users(changed)
            known = {row.id for row in restored}
            self._revoked += [  # the tokens of later users
                f"sub:{row.id}:{row.token_version}"
                for row in former.values()
                if row.id not in known
            ]
            if until is None:
                return
            last = until

    async def _former_users(self, after: int, until: int | None) -> dict[int, _Row]:
        query = select(*_USER_COLUMNS).where(User.id > after)
        if until is not None:
            query = query.where(User.id <= until)
        return {row.id: row for row in await self._former.execute(query)}

    async def _restrict_users(self, changed: dict[int, _Row | None]) -> None:
        for user in await self._load_users(changed):
            self._restrict(user, changed[user.id])
        await self._restored.flush()

    def _restrict(self, user: User, former: _Row | None) -> None:
        changes = self.changes
        self._revoked.append(f"sub:{user.id}:{user.token_version}")
        if former is not None:
            self._revoked.append(f"sub:{user.id}:{former.token_version}")
        if (former is None or not former.is_enabled) and user.is_enabled:
            user.is_enabled = False
            changes.disabled.append(user.username)
        if former is not None:
            kept = _intersect(user.scopes, former.scopes)
            if kept != user.scopes or (user.is_admin and not former.is_admin):
                changes.demoted.append(user.username)
            user.scopes = kept
            user.is_admin = user.is_admin and former.is_admin
            if former.token_version != user.token_version and (
                former.password_hash != user.password_hash
            ):
                self._invalidate_password(user)
            if former.email != user.email and user.email is not None:
                user.email = None  # it may be another person's mailbox by now
                changes.emails.append(user.username)
            elif former.email_verified_at is None:
                user.email_verified_at = None
        user.token_version = new_token_version()

    def _invalidate_password(self, user: User) -> None:
        if user.kind == PERSON and user.password_hash != UNUSABLE_PASSWORD:
            user.password_hash = UNUSABLE_PASSWORD
            self.changes.passwords.append(user.username)

    async def _compare_second_factors(self) -> None:
        columns = (SecondFactor.user_id, SecondFactor.created_at)
        is_confirmed = SecondFactor.confirmed_at.is_not(None)
        async for ids in changed_keys(self._restored, self._former, *columns, where=is_confirmed):
            self.changes.second_factors += [u.username for u in await self._load_users(ids)]
        # Set up since the backup. The password alone must not be enough again.
        async for ids in changed_keys(self._former, self._restored, *columns, where=is_confirmed):
            unprotected = set(ids) - set(
                await self._restored.scalars(
                    select(SecondFactor.user_id).where(SecondFactor.user_id.in_(ids), is_confirmed)
                )
            )
            for user in await self._load_users(unprotected):
                self._invalidate_password(user)
        await self._restored.flush()

    async def _compare_groups(self) -> None:
        former = {group.id: group for group in await self._former.scalars(select(Group))}
        for group in (await self._restored.scalars(select(Group).order_by(Group.id))).all():
            earlier = former.get(group.id)
            scopes = _intersect(group.scopes, earlier.scopes if earlier else "")
            removed = await self._members(self._restored, group.id)
            removed -= await self._members(self._former, group.id)
            is_narrowed = scopes != group.scopes
            if not removed and not is_narrowed and earlier and earlier.version == group.version:
                continue
            self.changes.groups += 1
            self._revoked.append(f"grp:{group.id}.{group.version}")
            if earlier:
                self._revoked.append(f"grp:{group.id}.{earlier.version}")
            group.scopes, group.version = scopes, new_token_version()
            for batch in in_batches(sorted(removed)):
                is_removed = GroupMember.user_id.in_(batch)
                await self._restored.execute(
                    delete(GroupMember).where(GroupMember.group_id == group.id, is_removed)
                )

    async def _members(self, session: AsyncSession, group_id: int) -> set[int]:
        query = select(GroupMember.user_id).where(GroupMember.group_id == group_id)
        return set(await session.scalars(query))

    async def _compare_api_keys(self) -> None:
        columns = (
            *(ApiKey.id, ApiKey.version, ApiKey.secret_hash),
            *(ApiKey.suspended_at, ApiKey.revoked_at, ApiKey.replaced_by),
        )
        async for ids in changed_keys(self._restored, self._former, *columns):
            works = (ApiKey.suspended_at.is_(None), ApiKey.revoked_at.is_(None))
            keys = await self._restored.scalars(select(ApiKey).where(ApiKey.id.in_(ids), *works))
            for api_key in keys.all():
                self._revoked.append(f"sid:{api_key.id}.{api_key.version}")
                api_key.suspended_at = self._context.now
                api_key.version += 1
                self.changes.api_keys += 1
            await self._restored.flush()
        async for ids in changed_keys(self._former, self._restored, ApiKey.id, ApiKey.version):
            rows = await self._former.execute(
                select(ApiKey.id, ApiKey.version).where(ApiKey.id.in_(ids))
            )
            self._revoked += [f"sid:{row.id}.{row.version}" for row in rows]

    async def _compare_webhooks(self) -> None:
        """One that was deleted, disabled or sent elsewhere must not get messages again."""
        columns = (
            *(WebhookEndpoint.url, WebhookEndpoint.types),
            # Not the secret, whose encrypted text changes when SECRET_KEY is rotated.
            *(WebhookEndpoint.previous_secret_until, WebhookEndpoint.is_enabled),
        )
        async for ids in changed_keys(self._restored, self._former, WebhookEndpoint.id, *columns):
            is_enabled = (WebhookEndpoint.id.in_(ids), WebhookEndpoint.is_enabled)
            endpoints = await self._restored.scalars(select(WebhookEndpoint).where(*is_enabled))
            for endpoint in endpoints.all():
                endpoint.is_enabled = False
                self.changes.webhooks += 1
        await self._restored.flush()

    async def _compare_signing_keys(self) -> None:
        found = [kids async for kids in changed_keys(self._restored, self._former, StoredKey.kid)]
        for kid in chain.from_iterable(found):  # afterwards, because this may add another key
            await self._services.keys.revoke(self._context, kid)
            self._revoked.append(f"kid:{kid}")
            self.changes.signing_keys += 1

    async def _add_setup_steps(self) -> None:
        """What a start does only once must not be done again."""
        async for names in changed_keys(self._former, self._restored, SetupStep.name):
            self._restored.add_all(
                SetupStep(name=name, done_at=self._context.now) for name in names
            )

    async def _delete_changed(self, key: Any, *columns: Any) -> int:
        number = 0
        async for keys in changed_keys(self._restored, self._former, key, *columns):
            await self._restored.execute(
                delete(key.class_).where(key.in_(keys)),
                execution_options={"synchronize_session": False},
            )
            number += len(keys)
        return number

    async def _load_users(self, ids: Collection[int]) -> Sequence[User]:
        if not ids:
            return ()
        query = select(User).where(User.id.in_(ids)).order_by(User.id)
        return (await self._restored.scalars(query)).all()

    async def _publish(self) -> None:
        """Also what the former database has published and has not expired."""
        query = select(Revocation.value).order_by(Revocation.position)
        values = [*await self._former.scalars(query), *self._revoked]
        for batch in in_batches(list(dict.fromkeys(values))):
            missing = await self._services.revocations.publish_missing(self._context, batch)
            self.changes.revocations += missing

    async def _advance_ids(self) -> None:
        """The former database may have assigned more than timelines.skip_ids() skips."""
        former, restored = await self._former.connection(), await self._restored.connection()
        for table in sequences.tables_with_identity():
            last = await sequences.last_id(former, table)
            await sequences.skip_to(restored, table, last)


def _differs(user: _Row, former: _Row | None) -> bool:
    """Whether anything was taken from the user. A new hash of the same password does not count: the
    token version is the same. Neither do more scopes or a verified address."""
    if former is None or former.token_version != user.token_version:
        return True
    if former.email != user.email or (user.email_verified_at and not former.email_verified_at):
        return True
    return (
        (user.is_enabled and not former.is_enabled)
        or (user.is_admin and not former.is_admin)
        or _intersect(user.scopes, former.scopes) != user.scopes
    )


def _intersect(scopes: str, others: str) -> str:
    """The scopes that both allow: the first text itself, if the others allow all of it."""
    first, second = set(scopes.split()), set(others.split())
    kept = intersection(first, second)
    return scopes if kept >= first else " ".join(sorted(kept))
