from datetime import datetime
from typing import TYPE_CHECKING, Self

from pydantic import BaseModel, ConfigDict, Field

from app.http.bodies import ConstantMessage, RequestBody
from app.mail.schemas import Language, MailStatus
from app.security.one_time_codes.schemas import CodeText
from app.security.passwords import Password
from app.users.schemas import Email

if TYPE_CHECKING:
    from app.security.one_time_codes.models import Code


class ForgottenPassword(RequestBody):
    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"email": "eligijus@example.org"}]}
    )

    email: Email = Field(description="The address of the account.")


class ResetRequested(BaseModel):
    message: ConstantMessage = "If an account has this address, a code is on its way"


class PasswordReset(RequestBody):
    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [
                {
                    "code": "MFRG-G2DF-MZTW-Q2LK-NBSW-Y3DP",
                    "new_password": "incorrect zebra alkaline paperclip",
                }
            ]
        },
    )

    code: CodeText = Field(description="The code from the mail or from an administrator.")
    new_password: Password = Field(description="Up to 128 characters.")


class PasswordResetDone(BaseModel):
    message: ConstantMessage = "Password changed"
    user_id: int = Field(description="The user's id.", examples=[10])


class AdminPasswordReset(RequestBody):
    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"by_mail": False}, {"by_mail": True}]}
    )

    by_mail: bool = Field(
        default=False,
        description="Send the code to the user's e-mail address instead of returning it. "
        "Default: false.",
    )
    language: Language | None = None


class AdminPasswordResetDone(BaseModel):
    """The code is not shown again."""

    user_id: int = Field(description="The user's id.", examples=[10])
    code: str | None = Field(
        description="Give it to the user. Null if it is mailed.",
        examples=["MFRG-G2DF-MZTW-Q2LK-NBSW-Y3DP"],
    )
    expires_at: datetime = Field(description="When the code expires.")
    mail: MailStatus | None = Field(
        description="The state of the mail. Null if the code was not mailed."
    )

    @classmethod
    def of(cls, code: "Code", text: str | None) -> Self:
        """`text` is None if the code is mailed."""
        opened = OpenPasswordReset.model_validate(code)
        return cls(code=text, **opened.model_dump(exclude={"created_at"}))


class OpenPasswordReset(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    user_id: int = Field(description="The user's id.", examples=[10])
    created_at: datetime = Field(description="When the reset was forced.")
    expires_at: datetime = Field(description="When the code expires.")
    mail: MailStatus | None = Field(
        description="The state of the mail. Null if the code was not mailed."
    )
