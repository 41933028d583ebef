"""Carries over to a restored database what was revoked since its backup.

The former database is compared row by row. Only what it no longer allows is taken from it: no
rights, no passwords and no new rows, because it may be what an attacker or a mistake has made of
it. What cannot be known for certain is suspended, such as API keys, or has to be renewed, such as
passwords.
"""

from collections.abc import AsyncIterator, Collection, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import chain
from typing import Any

from sqlalchemy import ColumnElement, Row, delete, func, select, text
from sqlalchemy.ext.asyncio import AsyncSession

from app.accounts.first_admin.models import SetupStep
from app.audit.models import Entry
from app.context import RequestContext
from app.credentials.api_keys.models import ApiKey
from app.credentials.second_factors.models import RecoveryCode, SecondFactor
from app.credentials.sessions.models import Session
from app.database.timelines import tables_with_counted_ids
from app.groups.models import Group, GroupMember
from app.mail.models import OutgoingMail
from app.security.one_time_codes.models import Code
from app.services import Services
from app.tokens.jwt import PERSON
from app.tokens.revocations.models import Feed, Revocation
from app.tokens.signing_keys.models import StoredKey
from app.users.models import UNUSABLE_PASSWORD, User, new_token_version
from app.webhooks.models import WebhookDelivery, WebhookEndpoint
from hourpass.scopes import intersection

BATCH_SIZE = 1000

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
_SQLITE_LAST_ID = text("SELECT seq FROM sqlite_sequence WHERE name = :name")
_SET_SQLITE_LAST_ID = text("UPDATE sqlite_sequence SET seq = max(seq, :last) WHERE name = :name")
_ADD_SQLITE_LAST_ID = text(
    "INSERT INTO sqlite_sequence (name, seq) SELECT :name, 0"
    " WHERE NOT EXISTS (SELECT 1 FROM sqlite_sequence WHERE name = :name)"
)
_POSTGRES_LAST_ID = text(
    "SELECT pg_sequence_last_value(pg_get_serial_sequence(quote_ident(:name), 'id')::regclass)"
)
_SET_POSTGRES_LAST_ID = text(
    "SELECT setval(sequence, greatest(pg_sequence_last_value(sequence), :last)) FROM"
    " (SELECT pg_get_serial_sequence(quote_ident(:name), 'id')::regclass AS sequence) AS of_table"
)


@dataclass(slots=True)
class Changes:
    """What was carried over. Usernames, and numbers of rows."""

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


async def continues(former: AsyncSession, restored: AsyncSession) -> bool:
    """Whether the former database is what became of the restored one, and not another database or
    an earlier one."""
    newest = (Entry.id, Entry.at, Entry.action)
    last = (await restored.execute(select(*newest).order_by(Entry.id.desc()).limit(1))).first()
    feed_name = select(Feed.name)
    has_same_feed = await former.scalar(feed_name) == await restored.scalar(feed_name)
    if last is None:
        return has_same_feed
    found = (await former.execute(select(*newest).where(Entry.id == last.id))).first()
    if found is not None:
        return tuple(found) == tuple(last)
    # Entries are deleted after AUDIT_DAYS.
    oldest = await former.scalar(select(func.min(Entry.id)))
    return has_same_feed and oldest is not None and oldest > last.id


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
        last = 0
        while True:
            page = select(*_USER_COLUMNS).where(User.id > last).order_by(User.id).limit(BATCH_SIZE)
            restored = (await self._restored.execute(page)).all()
            until = restored[-1].id if len(restored) == BATCH_SIZE else None
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
        async for ids in _changed(self._restored, self._former, *columns, where=is_confirmed):
            self.changes.second_factors += [u.username for u in await self._load_users(ids)]
        # Set up since the backup. The password alone must not be enough again.
        async for ids in _changed(self._former, self._restored, *columns, where=is_confirmed):
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
            for batch in _in_batches(sorted(removed)):
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
        async for ids in _changed(self._restored, self._former, *columns):
            works = (ApiKey.suspended_at.is_(None), ApiKey.revoked_at.is_(None))
            keys = await self._restored.scalars(select(ApiKey).where(ApiKey.id.in_(ids), *works))
            for api_key in keys.all():
                self._revoked.append(f"sid:{api_key.id}.{api_key.version}")
                api_key.suspended_at = self._context.now
                api_key.version += 1
                self.changes.api_keys += 1
            await self._restored.flush()
        async for ids in _changed(self._former, self._restored, ApiKey.id, ApiKey.version):
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
        async for ids in _changed(self._restored, self._former, WebhookEndpoint.id, *columns):
            is_enabled = (WebhookEndpoint.id.in_(ids), WebhookEndpoint.is_enabled)
            endpoints = await self._restored.scalars(select(WebhookEndpoint).where(*is_enabled))
            for endpoint in endpoints.all():
                endpoint.is_enabled = False
                self.changes.webhooks += 1
        await self._restored.flush()

    async def _compare_signing_keys(self) -> None:
        found = [kids async for kids in _changed(self._restored, self._former, StoredKey.kid)]
        for kid in chain.from_iterable(found):  # afterwards, because this may add another key
            await self._services.keys.revoke(self._context, kid)
            self._revoked.append(f"kid:{kid}")
            self.changes.signing_keys += 1

    async def _add_setup_steps(self) -> None:
        """What a start does only once must not be done again."""
        async for names in _changed(self._former, self._restored, SetupStep.name):
            self._restored.add_all(
                SetupStep(name=name, done_at=self._context.now) for name in names
            )

    async def _delete_changed(self, key: Any, *columns: Any) -> int:
        number = 0
        async for keys in _changed(self._restored, self._former, key, *columns):
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
        for batch in _in_batches(list(dict.fromkeys(values))):
            missing = await self._services.revocations.publish_missing(self._context, batch)
            self.changes.revocations += missing

    async def _advance_ids(self) -> None:
        """The former database may have given out more than timelines.skip_ids() skips."""
        is_sqlite = self._restored.get_bind().dialect.name == "sqlite"
        was_sqlite = self._former.get_bind().dialect.name == "sqlite"
        for name in tables_with_counted_ids():
            query = _SQLITE_LAST_ID if was_sqlite else _POSTGRES_LAST_ID
            last = await self._former.scalar(query, {"name": name})
            if last is None:
                continue
            if is_sqlite:
                await self._restored.execute(_ADD_SQLITE_LAST_ID, {"name": name})
            statement = _SET_SQLITE_LAST_ID if is_sqlite else _SET_POSTGRES_LAST_ID
            await self._restored.execute(statement, {"name": name, "last": last})


def _differs(user: _Row, former: _Row | None) -> bool:
    """Whether anything was taken from the user. A new hash of the same password is none: it has
    the same token version. Neither are more scopes, or a verified address."""
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


async def _changed(
    session: AsyncSession,
    other: AsyncSession,
    key: Any,
    *columns: Any,
    where: ColumnElement[bool] | None = None,
) -> AsyncIterator[list[Any]]:
    """The keys of the rows that the other database lacks, or has with another value in one of the
    columns."""
    query = select(key, *columns).order_by(key).limit(BATCH_SIZE)
    in_other = select(key, *columns)
    if where is not None:
        query, in_other = query.where(where), in_other.where(where)
    rows = (await session.execute(query)).all()
    while rows:
        last = rows[-1][0]
        keys = [row[0] for row in rows]
        same = {tuple(row) for row in await other.execute(in_other.where(key.in_(keys)))}
        if found := [row[0] for row in rows if tuple(row) not in same]:
            yield found
        rows = (await session.execute(query.where(key > last))).all()


def _in_batches(values: Sequence[Any]) -> list[Sequence[Any]]:
    return [values[start : start + BATCH_SIZE] for start in range(0, len(values), BATCH_SIZE)]


# Not what people want to read: each user has many.
ROUTINE = ("login", "session.open", "token.revoke", "service.backup")


@dataclass(frozen=True, slots=True)
class Audited:
    """An entry of the former database's audit log."""

    at: datetime
    action: str
    by: str
    user: str


async def list_changes(
    former: AsyncSession, after_id: int, limit: int
) -> tuple[list[Audited], int]:
    """What happened since the backup, oldest first, and how many more there were."""
    since = (Entry.id > after_id, Entry.succeeded, Entry.action.not_in(ROUTINE))
    number = await former.scalar(select(func.count()).select_from(Entry).where(*since)) or 0
    entries = (
        await former.scalars(select(Entry).where(*since).order_by(Entry.id).limit(limit))
    ).all()
    ids = {id_ for entry in entries for id_ in (entry.actor_id, entry.subject_id) if id_}
    rows = await former.execute(select(User.id, User.username).where(User.id.in_(ids)))
    names: dict[int, str] = {row.id: row.username for row in rows}

    def name(id_: int | None) -> str:
        return names.get(id_ or 0, str(id_ or ""))

    listed = [Audited(e.at, e.action, name(e.actor_id), name(e.subject_id)) for e in entries]
    return listed, number - len(listed)
