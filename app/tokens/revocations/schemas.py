from datetime import datetime

from pydantic import BaseModel, Field


class RevocationEntry(BaseModel):
    """Reject all tokens with this value until `expires_at`."""

    value: str = Field(
        description="`jti:…`: one token. `sid:…`: the tokens of a session or an API key. `kid:…`: "
        "all tokens signed with a key. `sub:<sub>:<epoch>`: the tokens of a user with that "
        "`epoch`. Ignore other values, such as `key:…`, which announces a new API key to the "
        "service's workers.",
        examples=["sub:10:0"],
    )
    expires_at: datetime = Field(description="When it can be forgotten.")


class RevocationPage(BaseModel):
    revocations: list[RevocationEntry] = Field(description="The oldest first.")
    cursor: str = Field(
        description="Send it as `after` to get the next entries.", examples=["3f9c2b1a5d6e7f80.42"]
    )
    more: bool = Field(description="Whether there is another page now.", examples=[False])
