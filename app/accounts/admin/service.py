"""Describes users for administrators, over HTTP and on the command line."""

from collections.abc import Sequence

from app.accounts.admin.schemas import UserRecord
from app.context import RequestContext
from app.groups.service import find_group_names
from app.users.models import User


async def describe(context: RequestContext, users: Sequence[User]) -> list[UserRecord]:
    """With the names of their groups."""
    names = await find_group_names(context, [user.id for user in users])
    return [
        UserRecord.model_validate(user).model_copy(update={"groups": names[user.id]})
        for user in users
    ]
