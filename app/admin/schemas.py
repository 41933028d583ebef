from datetime import datetime
from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from app.paging import PageQuery
from app.users.schemas import Email, NewAccount, Scopes, words


class UserRecord(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    id: int = Field(examples=[10])
    username: str = Field(examples=["eligijus"])
    email: str | None = Field(examples=["eligijus@testmail.com"])
    email_verified: bool = Field(examples=[False])
    is_enabled: bool = Field(examples=[True])
    is_admin: bool = Field(examples=[False])
    scopes: Annotated[list[str], BeforeValidator(words)] = Field(examples=[["predict"]])
    created_at: datetime


class UserQuery(PageQuery):
    search: str | None = Field(
        None,
        min_length=1,
        max_length=254,
        pattern=r"^[^\x00-\x1f]+$",
        description="The beginning of a name, in any spelling, or a whole e-mail address.",
    )
    is_enabled: bool | None = None
    is_admin: bool | None = None


class UserPage(BaseModel):
    users: list[UserRecord]
    next_cursor: str | None = Field(
        description="Ask with it as `cursor` for those that follow; null at the end.",
        examples=["10"],
    )


class NewUserByAdmin(NewAccount):
    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [
                {
                    "username": "eligijus",
                    "password": "correct horse battery staple",
                    "email": "eligijus@testmail.com",
                    "scopes": ["predict"],
                }
            ]
        },
    )

    is_admin: bool = False
    scopes: Scopes = Field([], description="What else its tokens may be used for.")


class UserChange(BaseModel):
    """Members left out stay as they are."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"examples": [{"is_enabled": False}, {"scopes": ["predict", "train"]}]},
    )

    email: Email | None = None
    email_verified: bool = Field(
        default=False, description="An administrator may vouch for an address."
    )
    is_enabled: bool = True
    is_admin: bool = False
    scopes: Scopes = []
