"""The scopes that a user has, with those of its groups."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from sqlalchemy import bindparam, exists, select

from app.context import RequestContext
from app.database import fast_queries
from app.groups.models import Group, GroupMember
from app.users.models import User

# A column of the login's only statement, so that a user without groups needs no second one.
HAS_GROUPS = exists().where(GroupMember.user_id == User.id)

_SELECT = (
    select(Group.id, Group.version, Group.scopes)
    .join(GroupMember, GroupMember.group_id == Group.id)
    .where(GroupMember.user_id == bindparam("user_id"))
    .order_by(Group.id)
)


class UserScopes(NamedTuple):
    """`groups` are those of the user, as `<id>.<version>`, for the token."""

    scopes: frozenset[str]
    groups: tuple[str, ...] = ()


class ScopeHolder(Protocol):
    """A User or a LoginAccount."""

    @property
    def id(self) -> int: ...

    def granted_scopes(self) -> set[str]: ...


async def find_user_scopes(context: RequestContext, user: ScopeHolder) -> UserScopes:
    """All scopes that tokens of this user can have: its own, and those of its groups."""
    own = user.granted_scopes()
    rows: Sequence[tuple[int, int, str]] = await fast_queries.run(
        context.session, _SELECT, {"user_id": user.id}
    )
    return UserScopes(
        frozenset(own.union(*(scopes.split() for _, _, scopes in rows))),
        tuple(f"{id_}.{version}" for id_, version, _ in rows),
    )
