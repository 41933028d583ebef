from typing import Annotated
from urllib.parse import quote

from fastapi import APIRouter, Query, Response, status

from app.errors import InvalidRequestError
from app.groups.dependencies import GroupPath, GroupsDep
from app.groups.errors import (
    GroupExistsError,
    GroupLimitError,
    GroupNotFoundError,
    MemberNotFoundError,
    ScopesTooLongError,
    TooManyGroupsError,
)
from app.groups.schemas import (
    GroupChange,
    GroupPage,
    GroupRecord,
    GroupRemoved,
    GroupsOfUser,
    MemberAdded,
    MemberPage,
    MemberRecord,
    MemberRemoved,
    NewGroup,
)
from app.http.addresses import public_path
from app.http.dependencies import ContextDep
from app.http.error_responses import error_docs
from app.http.pagination import PageQuery
from app.tokens.dependencies import TokensDep
from app.users.dependencies import ADMIN_CHANGE_ERRORS, ADMIN_ERRORS, CurrentAdmin, UserId
from app.users.errors import UserNotFoundError

router = APIRouter(tags=["Groups"])


@router.get(
    "/groups",
    operation_id="listGroups",
    summary="List groups",
    response_description="A page of groups.",
    responses=error_docs(*ADMIN_ERRORS, InvalidRequestError),
)
async def list_groups(
    _: CurrentAdmin, groups: GroupsDep, query: Annotated[PageQuery, Query()], context: ContextDep
) -> GroupPage:
    """Oldest first."""
    page, further = query.paginate(await groups.list(context, query.position or 0, query.limit + 1))
    return GroupPage(groups=[GroupRecord.model_validate(it) for it in page], next_cursor=further)


@router.post(
    "/groups",
    operation_id="createGroup",
    summary="Create a group",
    response_description="The group was created.",
    status_code=status.HTTP_201_CREATED,
    responses={
        201: {
            "headers": {
                "Location": {
                    "description": "Path of the group.",
                    "schema": {"type": "string"},
                    "example": "/groups/fraud-team",
                }
            }
        },
        **error_docs(*ADMIN_CHANGE_ERRORS, InvalidRequestError, GroupExistsError, GroupLimitError),
    },
)
async def create_group(
    _: CurrentAdmin,
    body: NewGroup,
    groups: GroupsDep,
    context: ContextDep,
    tokens: TokensDep,
    response: Response,
) -> GroupRecord:
    """A group has scopes. Each member has them too. `admin` and `offline_access` cannot be
    scopes of a group."""
    group = await groups.create(context, body.name, body.scopes)
    response.headers["Location"] = public_path(tokens.issuer, f"/groups/{quote(group.name)}")
    return GroupRecord.model_validate(group)


@router.get(
    "/groups/{name}",
    operation_id="readGroup",
    summary="Get a group",
    response_description="The group.",
    responses=error_docs(*ADMIN_ERRORS, GroupNotFoundError),
)
async def read_group(
    _: CurrentAdmin, name: GroupPath, groups: GroupsDep, context: ContextDep
) -> GroupRecord:
    """Its name and scopes."""
    return GroupRecord.model_validate(await groups.get(context, name))


@router.patch(
    "/groups/{name}",
    operation_id="changeGroup",
    summary="Rename a group or change its scopes",
    response_description="The group after the change.",
    responses=error_docs(
        *ADMIN_CHANGE_ERRORS,
        InvalidRequestError,
        GroupNotFoundError,
        GroupExistsError,
        ScopesTooLongError,
    ),
)
async def change_group(
    _: CurrentAdmin, name: GroupPath, change: GroupChange, groups: GroupsDep, context: ContextDep
) -> GroupRecord:
    """Omitted and null members do not change.

    If the new scopes allow less, the access tokens of all members are revoked at once.
    Their sessions stay. More scopes, or another name, revoke nothing.
    """
    group = await groups.update(context, name, new_name=change.name, scopes=change.scopes)
    return GroupRecord.model_validate(group)


@router.delete(
    "/groups/{name}",
    operation_id="removeGroup",
    summary="Delete a group",
    response_description="The group was deleted.",
    responses=error_docs(*ADMIN_CHANGE_ERRORS, GroupNotFoundError),
)
async def remove_group(
    _: CurrentAdmin, name: GroupPath, groups: GroupsDep, context: ContextDep
) -> GroupRemoved:
    """Revokes the access tokens of all members at once. Their sessions stay."""
    await groups.delete(context, name)
    return GroupRemoved()


@router.get(
    "/groups/{name}/members",
    operation_id="listMembersOfGroup",
    summary="List the members of a group",
    response_description="A page of members.",
    responses=error_docs(*ADMIN_ERRORS, InvalidRequestError, GroupNotFoundError),
)
async def list_members(
    _: CurrentAdmin,
    name: GroupPath,
    groups: GroupsDep,
    query: Annotated[PageQuery, Query()],
    context: ContextDep,
) -> MemberPage:
    """In the order of their ids."""
    page, further = query.paginate(
        await groups.list_members(context, name, query.position or 0, query.limit + 1)
    )
    return MemberPage(members=[MemberRecord.model_validate(it) for it in page], next_cursor=further)


@router.put(
    "/groups/{name}/members/{user_id}",
    operation_id="addMemberToGroup",
    summary="Add a user to a group",
    response_description="The user is a member.",
    responses=error_docs(
        *ADMIN_CHANGE_ERRORS,
        InvalidRequestError,
        GroupNotFoundError,
        UserNotFoundError,
        TooManyGroupsError,
        ScopesTooLongError,
    ),
)
async def add_member(
    _: CurrentAdmin, name: GroupPath, user_id: UserId, groups: GroupsDep, context: ContextDep
) -> MemberAdded:
    """Does nothing if the user is a member already. The user's next token has the scopes of the
    group; earlier tokens and sessions stay valid without them. A user can be in 20 groups."""
    await groups.add_member(context, name, user_id)
    return MemberAdded()


@router.delete(
    "/groups/{name}/members/{user_id}",
    operation_id="removeMemberFromGroup",
    summary="Remove a user from a group",
    response_description="The user is no longer a member.",
    responses=error_docs(
        *ADMIN_CHANGE_ERRORS,
        InvalidRequestError,
        GroupNotFoundError,
        UserNotFoundError,
        MemberNotFoundError,
    ),
)
async def remove_member(
    _: CurrentAdmin, name: GroupPath, user_id: UserId, groups: GroupsDep, context: ContextDep
) -> MemberRemoved:
    """Revokes the user's access tokens at once. The user's sessions stay."""
    await groups.remove_member(context, name, user_id)
    return MemberRemoved()


@router.get(
    "/users/{user_id}/groups",
    operation_id="listGroupsOfUser",
    summary="List the groups of a user",
    response_description="The groups of the user.",
    responses=error_docs(*ADMIN_ERRORS, InvalidRequestError, UserNotFoundError),
)
async def list_groups_of_user(
    _: CurrentAdmin, user_id: UserId, groups: GroupsDep, context: ContextDep
) -> GroupsOfUser:
    """All of them: a user can be in 20 groups."""
    found = await groups.list_of_user(context, user_id)
    return GroupsOfUser(groups=[GroupRecord.model_validate(group) for group in found])
