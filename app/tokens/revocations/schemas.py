from datetime import datetime

from pydantic import BaseModel, ConfigDict, Field


class RevocationEntry(BaseModel):
    """Refuse every token that carries this value, until `expires_at`."""

    model_config = ConfigDict(from_attributes=True)

    value: str = Field(
        description="`jti:…` one token, `sid:…` a session's tokens, `kid:…` all that a key signed, "
        "`sub:<sub>:<epoch>` a user's tokens of that epoch.",
        examples=["sub:10:0"],
    )
    expires_at: datetime


class RevocationPage(BaseModel):
    revocations: list[RevocationEntry]
    cursor: str = Field(
        description="Send it as `after` to hear what comes next.", examples=["3f9c2b1a5d6e7f80.42"]
    )
    more: bool = Field(description="Whether more is there to be read at once.", examples=[False])
