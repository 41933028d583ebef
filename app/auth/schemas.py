from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from app.users.schemas import Password


class Credentials(BaseModel):
    """What is traded for a token. Further members are ignored."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"username": "eligijus", "password": "correct horse battery staple"}]
        }
    )

    # Looser than a new user's name: a name that cannot exist is simply nobody's.
    username: Annotated[str, Field(max_length=64)]
    password: Password


class PasswordGrant(Credentials):
    """RFC 6749, 4.3.2. A missing `grant_type` is forgiven, since many clients omit it."""

    grant_type: Literal["password"] = "password"


class IssuedToken(BaseModel):
    """RFC 6749, 5.1. `token` repeats `access_token` under the name that the first clients knew."""

    token: str = Field(examples=["eyJhbGciOiJFUzI1NiIs…"])
    access_token: str = Field(examples=["eyJhbGciOiJFUzI1NiIs…"])
    token_type: Literal["bearer"] = "bearer"  # noqa: S105 - the name of a type, no token
    expires_in: int = Field(description="Seconds.", examples=[3600])


class TokenStatus(BaseModel):
    message: str = Field("Token is valid", examples=["Token is valid"])
