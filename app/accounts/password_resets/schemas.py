from datetime import datetime

from pydantic import BaseModel, ConfigDict, Field

from app.http.bodies import RequestBody
from app.security.one_time_codes.schemas import CodeText
from app.users.schemas import Email, Password


class ForgottenPassword(RequestBody):
    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"email": "eligijus@testmail.com"}]}
    )

    email: Email


class ResetRequested(BaseModel):
    message: str = Field(
        "If an account has this address, a code is on its way",
        examples=["If an account has this address, a code is on its way"],
    )


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

    code: CodeText
    new_password: Password


class PasswordResetDone(BaseModel):
    message: str = Field("Password changed", examples=["Password changed"])
    user_id: int = Field(examples=[10])


class AdminPasswordReset(RequestBody):
    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"by_mail": False}, {"by_mail": True}]}
    )

    by_mail: bool = Field(
        default=False,
        description="Send the code to the user's e-mail address instead of returning it. "
        "Default: false.",
    )


class AdminPasswordResetDone(BaseModel):
    """The code is not shown again."""

    user_id: int = Field(examples=[10])
    code: str | None = Field(
        description="Give it to the user. Null if it is mailed.",
        examples=["MFRG-G2DF-MZTW-Q2LK-NBSW-Y3DP"],
    )
    expires_at: datetime
