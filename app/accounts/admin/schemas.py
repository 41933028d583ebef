from datetime import datetime
from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, computed_field

from app.http.bodies import Change
from app.http.pagination import NextCursor, PageQuery
from app.tokens.scopes import split_scopes
from app.users.schemas import KIND_DESCRIPTION, EmailChange, Kind, NewAccount, Scopes


class UserRecord(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    id: int = Field(description="The user's id.", examples=[10])
    username: str = Field(description="As the user typed it.", examples=["eligijus"])
    email: str | None = Field(
        description="Null if the user has none.", examples=["eligijus@example.org"]
    )
    email_verified: bool = Field(
        description="Whether the user confirmed the address.", examples=[False]
    )
    is_enabled: bool = Field(description="Whether the user can log in.", examples=[True])
    is_admin: bool = Field(description="Whether the user may administer.", examples=[False])
    scopes: Annotated[list[str], BeforeValidator(split_scopes)] = Field(
        description="The user's own scopes, besides `admin` and those of the groups.",
        examples=[["predict"]],
    )
    kind: Kind = Field(description=KIND_DESCRIPTION, examples=["person"])
    groups: list[str] = Field([], description="Names of the user's groups.", examples=[["team"]])
    created_at: datetime = Field(description="When the user was created.")


class UserCreatedByAdmin(UserRecord):
    @computed_field(  # type: ignore[prop-decorator] # mypy does not know decorated properties
        description="The same as `id`, as in `POST /register-user`.", examples=[10]
    )
    @property
    def user_id(self) -> int:
        return self.id


class UserQuery(PageQuery):
    search: str | None = Field(
        None,
        min_length=1,
        max_length=254,
        pattern=r"^[^\x00-\x1f]+$",
        description="The beginning of a username, ignoring case, or a whole e-mail address.",
    )
    is_enabled: bool | None = Field(None, description="Only enabled, or only disabled users.")
    is_admin: bool | None = Field(None, description="Only administrators, or only other users.")
    kind: Kind | None = Field(None, description="Only people, or only service accounts.")


class UserPage(BaseModel):
    users: list[UserRecord] = Field(description="In the order of their ids.")
    next_cursor: NextCursor


class NewUserByAdmin(NewAccount):
    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [
                {
                    "username": "eligijus",
                    "password": "correct horse battery staple",
                    "email": "eligijus@example.org",
                    "scopes": ["predict"],
                }
            ]
        },
    )

    is_admin: bool = Field(default=False, description="Default: false.")
    scopes: Scopes = Field([], description="Scopes of the user's tokens. Default: none.")


class UserChange(Change):
    """Omitted and null members do not change."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"is_enabled": False}, {"scopes": ["predict", "train"]}, {"email": ""}]
        }
    )

    email: EmailChange | None = Field(
        None, description="An empty string removes the address.", examples=["ada@example.org"]
    )
    email_verified: bool | None = Field(
        None, description="Marks the address as verified, or as not verified."
    )
    is_enabled: bool | None = Field(None, description="False disables the user.")
    is_admin: bool | None = Field(None, description="False removes the administrator rights.")
    scopes: Scopes | None = Field(
        None, description="Replaces all scopes. An empty list removes them."
    )
