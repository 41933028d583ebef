from typing import Annotated

from pydantic import AfterValidator, ConfigDict, Field
from pydantic_core import PydanticCustomError

from app.http.bodies import RequestBody
from app.users.schemas import SERVICE_PREFIX, Scopes, Username, has_service_prefix


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
