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

    def __init__(self, user_id: int = 10, length: int = 1_200, limit: int = 1_000) -> None:
        """The defaults are those of the documented example."""
        super().__init__()
        self._text = (
            f"The scopes of user {user_id}, with those of its groups, would have {length:,} bytes. "
            f"A token has room for {limit:,}"
        )

    def describe(self) -> str:
        return self._text
