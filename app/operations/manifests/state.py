"""What the database has, as far as a file is about it."""

from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, select, true
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import InstrumentedAttribute

from app.groups.models import Group, GroupMember
from app.tokens.jwt import PERSON
from app.users.login_account import normalize_username as normalize
from app.users.models import User

_NAMES_AT_ONCE = 500  # in one statement

# Without the hashes of passwords.
_COLUMNS = (
    User.username_folded,
    User.id,
    User.username,
    User.kind,
    User.email,
    User.is_enabled,
    User.is_admin,
    User.scopes,
)


class AccountState(NamedTuple):
    id: int
    name: str
    kind: str
    email: str | None
    is_enabled: bool
    is_admin: bool
    scopes: tuple[str, ...]

    def values(self) -> dict[str, Any]:
        shown = {"is_enabled": self.is_enabled, "is_admin": self.is_admin, "scopes": self.scopes}
        return {"email": self.email, **shown} if self.kind == PERSON else shown


class GroupState(NamedTuple):
    id: int
    name: str
    scopes: tuple[str, ...]
    members: tuple[str, ...]  # as they typed their names, in the order in which these are compared

    def values(self) -> dict[str, Any]:
        return {"scopes": self.scopes, "members": self.members}


class State(NamedTuple):
    """By the names as they are compared."""

    accounts: Mapping[str, AccountState]
    groups: Mapping[str, GroupState]

    def find_account(self, name: str) -> AccountState:
        return self.accounts[normalize(name)]


async def load_state(
    session: AsyncSession,
    usernames: Collection[str] | None = None,
    group_names: Collection[str] | None = None,
) -> State:
    """The users and groups with these names; with None, all of them."""
    accounts: dict[str, AccountState] = {}
    for condition in _conditions(User.username_folded, usernames):
        for user in await session.execute(select(*_COLUMNS).where(condition)):
            accounts[user.username_folded] = AccountState(
                user.id,
                user.username,
                user.kind,
                user.email,
                user.is_enabled,
                user.is_admin,
                tuple(sorted(user.scopes.split())),
            )
    groups: dict[str, GroupState] = {}
    for condition in _conditions(Group.name_folded, group_names):
        members = await _load_members(session, condition)
        for group in await session.scalars(select(Group).where(condition)):
            groups[group.name_folded] = GroupState(
                group.id,
                group.name,
                tuple(sorted(group.scopes.split())),
                tuple(name for _, name in sorted(members.get(group.id, ()))),
            )
    return State(accounts, groups)


async def _load_members(
    session: AsyncSession, condition: ColumnElement[bool]
) -> dict[int, list[tuple[str, str]]]:
    """Of the groups for which the condition is true."""
    members: dict[int, list[tuple[str, str]]] = {}
    rows = await session.execute(
        select(GroupMember.group_id, User.username_folded, User.username)
        .join(User, User.id == GroupMember.user_id)
        .join(Group, Group.id == GroupMember.group_id)
        .where(condition)
    )
    for group_id, folded, name in rows:
        members.setdefault(group_id, []).append((folded, name))
    return members


def _conditions(
    column: InstrumentedAttribute[str], names: Collection[str] | None
) -> list[ColumnElement[bool]]:
    """One for each statement."""
    if names is None:
        return [true()]
    folded = sorted({normalize(name) for name in names})
    return [
        column.in_(folded[start : start + _NAMES_AT_ONCE])
        for start in range(0, len(folded), _NAMES_AT_ONCE)
    ]
