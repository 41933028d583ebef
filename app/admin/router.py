from typing import Annotated

from fastapi import APIRouter, Query, Response, status

from app.admin.schemas import NewUserByAdmin, UserChange, UserPage, UserRecord
from app.error_responses import documented
from app.paging import Cursor, Limit
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
async def list_users(  # noqa: PLR0913, PLR0917 - one for each thing to look for
    _: CurrentAdmin,
    users: UsersDep,
    search: Annotated[
        str | None,
        Query(
            min_length=1,
            max_length=254,
            pattern=r"^[^\x00-\x1f]+$",
            description="The beginning of a name, in any spelling, or a whole e-mail address.",
        ),
    ] = None,
    is_enabled: Annotated[bool | None, Query()] = None,
    is_admin: Annotated[bool | None, Query()] = None,
    cursor: Cursor = None,
    limit: Limit = 50,
) -> UserPage:
    """The oldest first. Who is created or removed meanwhile moves nobody else to another page."""
    found = await users.list_after(
        int(cursor) if cursor else 0, limit + 1, search, is_enabled=is_enabled, is_admin=is_admin
    )
    page = [UserRecord.model_validate(user) for user in found[:limit]]
    return UserPage(users=page, next_cursor=str(page[-1].id) if len(found) > limit else None)


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
    """Disabling, and any change of the scopes or of `is_admin`, ends the user's tokens at once."""
    given = change.model_dump(exclude_unset=True)
    if "scopes" in given:
        given["scopes"] = " ".join(sorted(change.scopes))
    return UserRecord.model_validate(await users.change(user_id, now, **given))
