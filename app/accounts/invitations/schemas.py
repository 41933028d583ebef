from datetime import datetime
from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from app.http.bodies import RequestBody
from app.security.one_time_codes.service import LIFETIMES, Purpose
from app.tokens.scopes import split_scopes
from app.users.schemas import Email, Scopes


class NewInvitation(RequestBody):
    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"examples": [{"scopes": ["predict"]}, {"email": "ada@example.org"}]},
    )

    email: Email | None = Field(
        None, description="Where to send the code. Left out, it is in the answer."
    )
    scopes: Scopes = Field(
        [], description="What else the user's tokens may be used for. Nothing if left out."
    )
    days: int = Field(
        LIFETIMES[Purpose.INVITE].days,
        ge=1,
        le=30,
        description=f"How long it can be used: {LIFETIMES[Purpose.INVITE].days} if left out.",
    )


class Invitation(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    id: int = Field(examples=[3])
    email: str | None = Field(
        description="Where it was sent, if it was.", examples=["ada@example.org"]
    )
    scopes: Annotated[list[str], BeforeValidator(split_scopes)] = Field(examples=[["predict"]])
    created_at: datetime
    expires_at: datetime


class InvitationCreated(Invitation):
    """The code is shown this once. Whoever registers gives it as `invitation`."""

    code: str | None = Field(
        None, description="Null if it is mailed.", examples=["MFRG-G2DF-MZTW-Q2LK-NBSW-Y3DP"]
    )


class InvitationPage(BaseModel):
    invitations: list[Invitation]
    next_cursor: str | None = Field(
        description="Ask with it as `cursor` for those that follow; null at the end.",
        examples=["3"],
    )


class InvitationRevoked(BaseModel):
    message: str = Field("Invitation taken back", examples=["Invitation taken back"])
