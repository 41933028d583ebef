from typing import Annotated

from fastapi import APIRouter, Query, Response, status

from app.admin.schemas import NewUserByAdmin, UserChange, UserPage, UserQuery, UserRecord
from app.error_responses import documented
from app.passwords import HashingOverloadedError
from app.tokens.dependencies import NowDep
from app.tokens.errors import InsufficientScopeError, InvalidTokenError, MissingTokenError
from app.users.dependencies import CurrentAdmin, UserId, UsersDep
from app.users.errors import LastAdminError, UserExistsError, UserNotFoundError

router = APIRouter(prefix="/users", tags=["Administration"])

_FOR_ADMINS = (MissingTokenError, InvalidTokenError, InsufficientScopeError)


@router.get(
    "",
    operation_id="listUsers",
    summary="List or search the users",
    responses=documented(*_FOR_ADMINS),
)
async def list_users(
    _: CurrentAdmin, users: UsersDep, query: Annotated[UserQuery, Query()]
) -> UserPage:
    """The oldest first. Who is created or removed meanwhile moves nobody else to another page."""
    found = await users.list_after(
        query.position or 0,
        query.limit + 1,
        query.search,
        is_enabled=query.is_enabled,
        is_admin=query.is_admin,
    )
    page, further = query.cut(found)
    return UserPage(users=[UserRecord.model_validate(user) for user in page], next_cursor=further)


@router.post(
    "",
    operation_id="createUser",
    summary="Create a user",
    status_code=status.HTTP_201_CREATED,
    responses=documented(*_FOR_ADMINS, UserExistsError, HashingOverloadedError),
)
async def create_user(
    _: CurrentAdmin, account: NewUserByAdmin, users: UsersDep, now: NowDep, response: Response
) -> UserRecord:
    """As by registration, but with scopes, as an administrator, or without an e-mail address."""
    user_id = await users.register(
        account, now, is_admin=account.is_admin, scopes=set(account.scopes)
    )
    response.headers["Location"] = f"/users/{user_id}"
    return UserRecord.model_validate(await users.get(user_id))


@router.get(
    "/{user_id}",
    operation_id="readUser",
    summary="Read a user",
    responses=documented(*_FOR_ADMINS, UserNotFoundError),
)
async def read_user(_: CurrentAdmin, user_id: UserId, users: UsersDep) -> UserRecord:
    """All that is known but the password's hash."""
    return UserRecord.model_validate(await users.get(user_id))


@router.patch(
    "/{user_id}",
    operation_id="changeUser",
    summary="Change a user",
    responses=documented(*_FOR_ADMINS, UserNotFoundError, LastAdminError),
)
async def change_user(
    _: CurrentAdmin, user_id: UserId, change: UserChange, users: UsersDep, now: NowDep
) -> UserRecord:
    """Members that are left out or null stay as they are.

    Disabling, and any change of the scopes or of `is_admin`, ends the user's tokens at once.
    """
    changes = change.changes()
    if change.scopes is not None:
        changes["scopes"] = " ".join(change.scopes)
    return UserRecord.model_validate(await users.change(user_id, now, **changes))
