from datetime import datetime
from typing import Annotated

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field
from pydantic_core import PydanticCustomError

from app.http.bodies import RequestBody
from app.tokens.scopes import split_scopes
from app.users.schemas import (
    KIND_DESCRIPTION,
    SERVICE_PREFIX,
    Kind,
    Scopes,
    Username,
    has_service_prefix,
)


def _check_prefix(username: str) -> str:
    if not has_service_prefix(username):
        raise PydanticCustomError("username", f"Must begin with {SERVICE_PREFIX}")
    return username


ServiceAccountName = Annotated[Username, AfterValidator(_check_prefix)]


class NewServiceAccount(RequestBody):
    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [{"username": "svc-nightly-scoring", "scopes": ["predict:fraud-*"]}]
        },
    )

    username: ServiceAccountName = Field(
        description="Begins with `svc-`. Compared without regard to case and Unicode form."
    )
    scopes: Scopes = Field([], description="Scopes of the account's tokens. Default: none.")


class ServiceAccountRecord(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    id: int = Field(description="The account's id, which is a user's id.", examples=[10])
    username: str = Field(
        description="As the administrator typed it.", examples=["svc-nightly-scoring"]
    )
    kind: Kind = Field(description=KIND_DESCRIPTION, examples=["service"])
    is_enabled: bool = Field(description="Whether its keys work.", examples=[True])
    scopes: Annotated[list[str], BeforeValidator(split_scopes)] = Field(
        description="Its own scopes, besides those of its groups.", examples=[["predict:fraud-*"]]
    )
    created_at: datetime = Field(description="When the account was created.")
