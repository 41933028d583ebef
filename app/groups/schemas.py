from datetime import datetime
from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from app.groups.names import GroupName
from app.http.bodies import Change, ConstantMessage, RequestBody
from app.http.pagination import NextCursor
from app.tokens.scopes import split_scopes
from app.users.schemas import Scopes


class GroupRecord(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    id: int = Field(description="In the tokens of the group's members.", examples=[3])
    name: str = Field(description="As it was typed.", examples=["fraud-team"])
    scopes: Annotated[list[str], BeforeValidator(split_scopes)] = Field(
        description="Scopes that each member has besides its own.", examples=[["predict:fraud-*"]]
    )
    created_at: datetime = Field(description="When the group was created.")


class GroupPage(BaseModel):
    groups: list[GroupRecord] = Field(description="In the order of their ids.")
    next_cursor: NextCursor


class GroupsOfUser(BaseModel):
    groups: list[GroupRecord] = Field(description="In the order of their ids, 20 at most.")


class NewGroup(RequestBody):
    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"examples": [{"name": "fraud-team", "scopes": ["predict:fraud-*"]}]},
    )

    name: GroupName = Field(
        description="Letters, digits, `-`, `_` and `.`, with a letter or digit first. Compared "
        "without regard to case and Unicode form."
    )
    scopes: Scopes = Field([], description="Scopes of the members. Default: none.")


class GroupChange(Change):
    """Omitted and null members do not change."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"name": "fraud-detection"}, {"scopes": ["predict:fraud-v3"]}]
        }
    )

    name: GroupName | None = Field(None, description="The new name. Tokens stay valid.")
    scopes: Scopes | None = Field(
        None, description="Replaces all scopes. An empty list removes them."
    )


class MemberRecord(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    id: int = Field(description="The user's id.", examples=[10])
    username: str = Field(description="As the user typed it.", examples=["eligijus"])
    kind: str = Field(
        description="`person`, or `service` for a service account.", examples=["person"]
    )


class MemberPage(BaseModel):
    members: list[MemberRecord] = Field(description="In the order of their ids.")
    next_cursor: NextCursor


class GroupRemoved(BaseModel):
    message: ConstantMessage = "Group deleted"


class MemberAdded(BaseModel):
    message: ConstantMessage = "The user is a member"


class MemberRemoved(BaseModel):
    message: ConstantMessage = "The user is no longer a member"
