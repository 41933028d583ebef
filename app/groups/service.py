"""The scopes that a user has, with those of its groups."""

from typing import NamedTuple, Protocol

from app.context import RequestContext


class Grants(NamedTuple):
    """`groups` are those that the scopes come from, as `<id>.<version>`, for the token."""

    scopes: frozenset[str]
    groups: tuple[str, ...] = ()


class ScopeHolder(Protocol):
    """A User or a LoginAccount."""

    @property
    def id(self) -> int: ...

    def granted_scopes(self) -> set[str]: ...


async def find_grants(_context: RequestContext, user: ScopeHolder) -> Grants:
    """All scopes that tokens of this user can have."""
    return Grants(frozenset(user.granted_scopes()))
