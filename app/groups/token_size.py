"""The scopes of a user and of its groups must fit into one token."""

from collections.abc import Set as AbstractSet

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import aliased

from app.context import RequestContext
from app.events import Event
from app.groups.errors import ScopesTooLongError
from app.groups.models import Group, GroupMember
from app.groups.user_scopes import ScopeHolder, find_user_scopes
from app.users.models import User
from hourpass.scopes import scope_string

# What fits into the longest token for any issuer (tokens/token_size.py).
MAX_SCOPES_LENGTH = 980


def require_fitting_scopes(user: ScopeHolder, scopes: AbstractSet[str]) -> None:
    """Raises ScopesTooLongError."""
    if (length := len(scope_string(scopes))) > MAX_SCOPES_LENGTH:
        raise ScopesTooLongError(
            f"The scopes of user {user.id}, with those of the groups, would have {length:,} bytes. "
            f"A token has room for {MAX_SCOPES_LENGTH:,}"
        )


async def require_fitting_members(context: RequestContext, group: Group) -> None:
    """The same for every member of a group whose scopes have changed. Raises ScopesTooLongError."""
    for user in await _find_candidates(context.session, group):
        require_fitting_scopes(user, (await find_user_scopes(context, user)).scopes)


async def check_granted_scopes(context: RequestContext, event: Event) -> None:
    """A subscriber, for when the user's own scopes change. Raises ScopesTooLongError."""
    assert event.subject_id
    user = await context.session.get_one(User, event.subject_id)
    if (owned := await find_user_scopes(context, user)).groups:
        require_fitting_scopes(user, owned.scopes)


async def _find_candidates(session: AsyncSession, group: Group) -> list[User]:
    """Members whose scopes are too long if no two of them are the same."""
    other = aliased(GroupMember)
    length = func.length(User.scopes) + func.sum(func.length(Group.scopes) + 1) + len(" admin")
    candidates = (
        select(User.id)
        .join(GroupMember, GroupMember.user_id == User.id)
        .join(other, other.user_id == User.id)
        .join(Group, Group.id == other.group_id)
        .where(GroupMember.group_id == group.id)
        .group_by(User.id)
        .having(length > MAX_SCOPES_LENGTH)
    )
    found = await session.scalars(select(User).where(User.id.in_(candidates)).order_by(User.id))
    return list(found.all())
