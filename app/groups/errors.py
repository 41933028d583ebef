from app.errors import ConflictError, NotFoundError
from app.tokens.jwt import MAX_GROUPS

MAX_GROUPS_IN_TOTAL = 1_000


class GroupNotFoundError(NotFoundError):
    error = "group_not_found"
    message = "Group not found"


class GroupExistsError(ConflictError):
    """The name exists in this or an equivalent spelling."""

    error = "group_exists"
    message = "A group with this name exists"


class GroupLimitError(ConflictError):
    error = "group_limit_reached"
    message = f"There are {MAX_GROUPS_IN_TOTAL:,} groups, which is the maximum"


class TooManyGroupsError(ConflictError):
    error = "too_many_groups"
    message = f"The user is in {MAX_GROUPS} groups, which is the maximum"


class MemberNotFoundError(NotFoundError):
    error = "member_not_found"
    message = "The user is not a member of this group"


class ScopesTooLongError(ConflictError):
    """The scopes of a user and of its groups would not fit into a token."""

    error = "scopes_too_long"
    message = "The user's scopes, with those of the groups, would be too long for a token"

    def __init__(self, problem: str | None = None) -> None:
        """`problem` names the user and the length."""
        super().__init__()
        self._problem = problem

    def describe(self) -> str:
        return self._problem or self.message
