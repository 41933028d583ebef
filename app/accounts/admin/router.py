from typing import Annotated

from fastapi import APIRouter, Path, Query, Response, status

from app.accounts.admin.schemas import (
    NewUserByAdmin,
    UserChange,
    UserCreatedByAdmin,
    UserPage,
    UserQuery,
    UserRecord,
)
from app.accounts.admin.service import describe
from app.database.ids import DecimalInt
from app.errors import InvalidRequestError
from app.groups.errors import ScopesTooLongError
from app.http.addresses import public_path
from app.http.dependencies import ContextDep
from app.http.error_responses import error_docs
from app.tokens.dependencies import TokensDep
from app.users.dependencies import ADMIN_CHANGE_ERRORS, ADMIN_ERRORS, CurrentAdmin, UserId, UsersDep
from app.users.errors import LastAdminError, ServiceAccountError, UserExistsError, UserNotFoundError
from app.users.schemas import PermissionUpdated, TokensRevoked, UserRemoved

router = APIRouter(tags=["Administration"])


@router.get(
    "/users",
    operation_id="listUsers",
    summary="List or search users",
    response_description="A page of users.",
    responses=error_docs(*ADMIN_ERRORS, InvalidRequestError),
)
async def list_users(
    _: CurrentAdmin, users: UsersDep, query: Annotated[UserQuery, Query()], context: ContextDep
) -> UserPage:
    """Oldest first."""
    found = await users.list(
        context,
        query.position or 0,
        query.limit + 1,
        search=query.search,
        is_enabled=query.is_enabled,
        is_admin=query.is_admin,
        kind=query.kind,
    )
    page, next_cursor = query.paginate(found)
    return UserPage(users=await describe(context, page), next_cursor=next_cursor)


@router.post(
    "/users",
    operation_id="createUser",
    summary="Create a user",
    response_description="The user was created.",
    status_code=status.HTTP_201_CREATED,
    responses={
        201: {
            "headers": {
                "Location": {
                    "description": "Path of the user.",
                    "schema": {"type": "string"},
                    "example": "/users/10",
                }
            }
        },
        **error_docs(*ADMIN_CHANGE_ERRORS, InvalidRequestError, UserExistsError),
    },
)
async def create_user(
    _: CurrentAdmin,
    account: NewUserByAdmin,
    users: UsersDep,
    context: ContextDep,
    tokens: TokensDep,
    response: Response,
) -> UserCreatedByAdmin:
    """Unlike registration, this can set `scopes` and `is_admin`. The e-mail address is optional."""
    user_id = await users.register(
        context, account, is_admin=account.is_admin, scopes=set(account.scopes)
    )
    response.headers["Location"] = public_path(tokens.issuer, f"/users/{user_id}")
    return UserCreatedByAdmin.model_validate(await users.get(context, user_id))


@router.get(
    "/users/{user_id}",
    operation_id="readUser",
    summary="Get a user",
    response_description="The user.",
    responses=error_docs(*ADMIN_ERRORS, InvalidRequestError, UserNotFoundError),
)
async def read_user(
    _: CurrentAdmin, user_id: UserId, users: UsersDep, context: ContextDep
) -> UserRecord:
    """The account, its state and its scopes."""
    (record,) = await describe(context, [await users.get(context, user_id)])
    return record


@router.patch(
    "/users/{user_id}",
    operation_id="changeUser",
    summary="Change a user",
    response_description="The user after the change.",
    responses=error_docs(
        *ADMIN_CHANGE_ERRORS,
        InvalidRequestError,
        UserNotFoundError,
        LastAdminError,
        ServiceAccountError,
        ScopesTooLongError,
    ),
)
async def change_user(
    _: CurrentAdmin, user_id: UserId, change: UserChange, users: UsersDep, context: ContextDep
) -> UserRecord:
    """Omitted and null members do not change.

    Disabling the user, or changing `scopes` or `is_admin`, revokes the user's tokens at once.
    """
    changes = change.changes()
    if change.scopes is not None:
        changes["scopes"] = " ".join(change.scopes)
    (record,) = await describe(context, [await users.change(context, user_id, **changes)])
    return record


@router.post(
    "/users/{user_id}/revoke-tokens",
    operation_id="revokeTokensOfUser",
    summary="Revoke all tokens and sessions of a user",
    response_description="All tokens and sessions of the user were revoked.",
    responses=error_docs(*ADMIN_CHANGE_ERRORS, InvalidRequestError, UserNotFoundError),
)
async def revoke_tokens_of_user(
    _: CurrentAdmin, user_id: UserId, users: UsersDep, context: ContextDep
) -> TokensRevoked:
    """The user stays enabled and can log in again."""
    await users.revoke_tokens(context, user_id)
    return TokensRevoked(user_id=user_id)


@router.put(
    "/toggle-user-permission/{user_id}/{permission}",
    operation_id="toggleUserPermission",
    summary="Enable or disable a user",
    response_description="The user was enabled or disabled.",
    responses=error_docs(
        *ADMIN_CHANGE_ERRORS, InvalidRequestError, UserNotFoundError, LastAdminError
    ),
)
async def toggle_user_permission(
    _: CurrentAdmin,
    user_id: UserId,
    permission: Annotated[DecimalInt, Path(ge=0, le=1, description="1: enable, 0: disable.")],
    users: UsersDep,
    context: ContextDep,
) -> PermissionUpdated:
    """Disabling revokes the user's tokens at once. Enabling the user does not make them valid
    again."""
    await users.set_enabled(context, user_id, enabled=permission == 1)
    return PermissionUpdated(user_id=user_id)


@router.delete(
    "/remove-user/{user_id}",
    operation_id="removeUser",
    summary="Delete a user",
    response_description="The user was deleted.",
    responses=error_docs(
        *ADMIN_CHANGE_ERRORS, InvalidRequestError, UserNotFoundError, LastAdminError
    ),
)
async def remove_user(
    _: CurrentAdmin, user_id: UserId, users: UsersDep, context: ContextDep
) -> UserRemoved:
    """Deletes the account and revokes its tokens at once. The id is never used again."""
    await users.remove(context, user_id)
    return UserRemoved()
