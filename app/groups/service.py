"""Operations on groups. Each is a transaction of its own.

An operation that takes scopes from a group revokes all tokens that name it, with one entry in the
feed. Removing a member revokes the access tokens of that user. Sessions stay valid: their next
token has the scopes that the user has then (decision 31).

Operations lock the user, then the group, then rows that belong to them, and the feed last.
"""

from collections.abc import Awaitable, Callable, Collection, Sequence
from typing import Any, NamedTuple

from sqlalchemy import delete, func, select
from sqlalchemy.exc import IntegrityError

from app.context import RequestContext
from app.database.engine import begin_write
from app.database.locks import lock_tables
from app.database.timelines import require_unused_ids
from app.database.upserts import upsert
from app.events import Events
from app.groups.errors import (
    MAX_GROUPS_IN_TOTAL,
    GroupExistsError,
    GroupLimitError,
    GroupNotFoundError,
    MemberNotFoundError,
    TooManyGroupsError,
)
from app.groups.models import Group, GroupMember
from app.groups.names import is_valid_name, normalize_name
from app.groups.token_size import require_fitting_members, require_fitting_scopes
from app.groups.user_scopes import find_user_scopes
from app.tokens.jwt import MAX_GROUPS
from app.tokens.revocations.service import Revocations
from app.tokens.scopes import shorten
from app.users.models import User, new_token_version
from app.users.service import Users
from hourpass.scopes import covers, scope_string

REVOKED = "revoked"  # a detail of events, if the tokens of all members are

_MAX_SUMMARY_LENGTH = 330

RevokeAccessTokens = Callable[[RequestContext, Sequence[int]], Awaitable[None]]


class Member(NamedTuple):
    id: int
    username: str
    kind: str


class Groups:
    """`revoke_access_tokens` is that of Sessions, which also keeps the sessions valid."""

    def __init__(
        self,
        users: Users,
        revocations: Revocations,
        events: Events,
        revoke_access_tokens: RevokeAccessTokens,
    ) -> None:
        self._users = users
        self._revocations = revocations
        self._events = events
        self._revoke_access_tokens = revoke_access_tokens

    async def create(
        self, context: RequestContext, name: str, scopes: Collection[str] = ()
    ) -> Group:
        """Raises GroupExistsError and GroupLimitError."""
        await begin_write(context.session)
        await require_unused_ids(context.session)
        await lock_tables(context.session, Group)  # nobody adds one after the count
        number = await context.session.scalar(select(func.count()).select_from(Group))
        if number is not None and number >= MAX_GROUPS_IN_TOTAL:
            raise GroupLimitError
        group = Group(
            name=name,
            name_folded=normalize_name(name),
            scopes=scope_string(scopes),
            version=new_token_version(),
            created_at=context.now,
        )
        context.session.add(group)
        await _flush_name(context)
        await self._publish(context, "group.create", group, to=_summary(group.scopes))
        await context.session.commit()
        return group

    async def get(self, context: RequestContext, name: str) -> Group:
        """Raises GroupNotFoundError."""
        return await _find(context, name)

    async def list(self, context: RequestContext, after_id: int, limit: int) -> Sequence[Group]:
        """At most `limit` groups with ids above `after_id`, in the order of their ids."""
        query = select(Group).where(Group.id > after_id).order_by(Group.id).limit(limit)
        return (await context.session.scalars(query)).all()

    async def list_of_user(self, context: RequestContext, user_id: int) -> Sequence[Group]:
        """In the order of their ids. Raises UserNotFoundError."""
        await self._users.get(context, user_id)
        query = select(Group).join(GroupMember, GroupMember.group_id == Group.id)
        found = query.where(GroupMember.user_id == user_id).order_by(Group.id)
        return (await context.session.scalars(found)).all()

    async def update(
        self,
        context: RequestContext,
        name: str,
        *,
        new_name: str | None = None,
        scopes: Collection[str] | None = None,
    ) -> Group:
        """Rename a group, or replace its scopes. Only fewer scopes revoke tokens.

        Raises GroupNotFoundError, GroupExistsError and ScopesTooLongError.
        """
        await begin_write(context.session)
        group = await _find(context, name, lock=True)
        details: dict[str, Any] = {}
        is_narrowed = False
        if new_name is not None and new_name != group.name:
            details["renamed_from"] = group.name
            group.name, group.name_folded = new_name, normalize_name(new_name)
            await _flush_name(context)
        if scopes is not None and (to := scope_string(scopes)) != group.scopes:
            details |= {"from": _summary(group.scopes), "to": _summary(to)}
            if is_narrowed := is_narrower(group.scopes, to):
                details["tokens"] = REVOKED
            group.scopes = to
            await require_fitting_members(context, group)
        if details:
            await self._publish(context, "group.update", group, **details)
        if is_narrowed:
            await self._revoke(context, group)
        await context.session.commit()
        return group

    async def delete(self, context: RequestContext, name: str) -> None:
        """Delete a group and revoke the tokens that name it. Raises GroupNotFoundError."""
        await begin_write(context.session)
        group = await _find(context, name, lock=True)
        details: dict[str, Any] = {"from": _summary(group.scopes), "tokens": REVOKED}
        await self._publish(context, "group.delete", group, **details)
        # Not by the ORM: the database deletes the memberships.
        await context.session.execute(delete(Group).where(Group.id == group.id))
        await self._revocations.publish(context, f"grp:{group.id}.{group.version}")
        await context.session.commit()

    async def list_members(
        self, context: RequestContext, name: str, after_id: int, limit: int
    ) -> Sequence[Member]:
        """At most `limit` members with ids above `after_id`, in the order of their ids. Raises
        GroupNotFoundError."""
        group = await _find(context, name)
        rows = await context.session.execute(
            select(User.id, User.username, User.kind)
            .join(GroupMember, GroupMember.user_id == User.id)
            .where(GroupMember.group_id == group.id, GroupMember.user_id > after_id)
            .order_by(GroupMember.user_id)
            .limit(limit)
        )
        return [Member(*row) for row in rows]

    async def add_member(self, context: RequestContext, name: str, user_id: int) -> None:
        """Safe to repeat. The user's tokens stay valid, and the next ones have the group's scopes.

        Raises GroupNotFoundError, UserNotFoundError, TooManyGroupsError and ScopesTooLongError.
        """
        await begin_write(context.session)
        user = await self._users.lock(context, user_id)
        group = await _find(context, name, lock=True)
        insert = upsert(context.session, GroupMember).values(group_id=group.id, user_id=user_id)
        added = await context.session.scalar(
            insert.on_conflict_do_nothing().returning(GroupMember.user_id)
        )
        if added is not None:
            owned = await find_user_scopes(context, user)
            if len(owned.groups) > MAX_GROUPS:
                raise TooManyGroupsError
            require_fitting_scopes(user, owned.scopes)
            await self._publish(context, "group.add_member", group, user_id=user_id)
        await context.session.commit()

    async def remove_member(self, context: RequestContext, name: str, user_id: int) -> None:
        """Revokes the user's access tokens, but no session.

        Raises GroupNotFoundError, UserNotFoundError and MemberNotFoundError.
        """
        await begin_write(context.session)
        await self._users.lock(context, user_id)
        group = await _find(context, name)
        removed = await context.session.scalar(
            delete(GroupMember)
            .where(GroupMember.group_id == group.id, GroupMember.user_id == user_id)
            .returning(GroupMember.user_id)
        )
        if removed is None:
            raise MemberNotFoundError
        await self._publish(context, "group.remove_member", group, user_id=user_id)
        await self._revoke_access_tokens(context, [user_id])
        await context.session.commit()

    async def _revoke(self, context: RequestContext, group: Group) -> None:
        """Revoke the tokens that name this version of the group."""
        revoked = f"grp:{group.id}.{group.version}"
        group.version += 1
        await context.session.flush()
        await self._revocations.publish(context, revoked)

    async def _publish(
        self,
        context: RequestContext,
        action: str,
        group: Group,
        *,
        user_id: int | None = None,
        **details: str,
    ) -> None:
        about: dict[str, Any] = {"group": str(group.id), "name": group.name, **details}
        await self._events.publish(context, action, user_id, **about)


async def find_group_names(
    context: RequestContext, user_ids: Collection[int]
) -> dict[int, list[str]]:
    """The names of each user's groups, in the order of their ids."""
    rows = await context.session.execute(
        select(GroupMember.user_id, Group.name)
        .join(Group, Group.id == GroupMember.group_id)
        .where(GroupMember.user_id.in_(user_ids))
        .order_by(Group.id)
    )
    names: dict[int, list[str]] = {user_id: [] for user_id in user_ids}
    for user_id, name in rows:
        names[user_id].append(name)
    return names


def is_narrower(scopes: str, others: str) -> bool:
    """Whether the other scopes do not allow everything that the first ones do."""
    allowed = frozenset(others.split())
    return not all(covers(allowed, scope) for scope in scopes.split())


def _summary(scopes: str) -> str:
    """For an event, whose details have 1,000 characters at most in the audit log."""
    return shorten(scopes, _MAX_SUMMARY_LENGTH)


async def _find(context: RequestContext, name: str, *, lock: bool = False) -> Group:
    """Raises GroupNotFoundError."""
    if not is_valid_name(name):  # PostgreSQL refuses a NUL even in a query
        raise GroupNotFoundError
    query = select(Group).where(Group.name_folded == normalize_name(name))
    if lock:
        query = query.with_for_update(key_share=True)
    group = await context.session.scalar(query.execution_options(populate_existing=True))
    if group is None:
        raise GroupNotFoundError
    return group


async def _flush_name(context: RequestContext) -> None:
    """The unique index decides between simultaneous changes. Raises GroupExistsError."""
    try:
        await context.session.flush()
    except IntegrityError:
        await context.session.rollback()
        raise GroupExistsError from None
