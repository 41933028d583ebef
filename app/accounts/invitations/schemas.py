from datetime import datetime
from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from app.http.bodies import ConstantMessage, RequestBody
from app.http.pagination import NextCursor
from app.mail.schemas import Language, MailStatus
from app.security.one_time_codes.service import LIFETIMES, Purpose
from app.tokens.scopes import split_scopes
from app.users.schemas import Email, Scopes


class InvitationRequest(RequestBody):
    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"examples": [{"scopes": ["predict"]}, {"email": "ada@example.org"}]},
    )

    email: Email | None = Field(
        None, description="Address to mail the code to. Without it, the response contains the code."
    )
    scopes: Scopes = Field([], description="Scopes of the user's tokens. Default: none.")
    days: int = Field(
        LIFETIMES[Purpose.INVITE].days,
        ge=1,
        le=30,
        description=f"Lifetime in days. Default: {LIFETIMES[Purpose.INVITE].days}.",
    )
    language: Language | None = None


class Invitation(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    id: int = Field(description="The invitation's id.", examples=[3])
    email: str | None = Field(
        description="Address that the code was mailed to, if any.", examples=["ada@example.org"]
    )
    scopes: Annotated[list[str], BeforeValidator(split_scopes)] = Field(
        description="Scopes of the tokens of the user who registers with it.",
        examples=[["predict"]],
    )
    created_at: datetime = Field(description="When the invitation was created.")
    expires_at: datetime = Field(description="When its code expires.")
    mail: MailStatus | None = Field(
        description="The state of the mail. Null if the code was not mailed."
    )


class InvitationCreated(Invitation):
    """The code is not shown again. Register with it as `invitation`."""

    code: str | None = Field(
        description="Null if it is mailed.", examples=["MFRG-G2DF-MZTW-Q2LK-NBSW-Y3DP"]
    )


class InvitationPage(BaseModel):
    invitations: list[Invitation] = Field(description="Invitations that can still be used.")
    next_cursor: NextCursor


class InvitationRevoked(BaseModel):
    message: ConstantMessage = "Invitation revoked"
