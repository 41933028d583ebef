from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from app.credentials.second_factors.schemas import StrongConfirmation
from app.http.bodies import Change, ConstantMessage, RequestBody
from app.security.one_time_codes.schemas import CodeText
from app.security.passwords import Password
from app.users.schemas import EmailChange


class PasswordChange(StrongConfirmation):
    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "password": "correct horse battery staple",
                    "new_password": "incorrect zebra alkaline paperclip",
                }
            ]
        }
    )

    new_password: Password = Field(description="Up to 128 characters.")


class PasswordChanged(BaseModel):
    message: ConstantMessage = "Password changed"
    user_id: int = Field(description="The user's id.", examples=[10])


class ProfileChange(StrongConfirmation, Change):
    """Omitted and null members do not change."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [
                {
                    "password": "correct horse battery staple",
                    "email": "eligijus@example.org",
                }
            ]
        },
    )

    email: EmailChange | None = Field(
        None, description="An empty string removes the address.", examples=["ada@example.org"]
    )

    def changes(self) -> dict[str, Any]:
        """Without the members that confirm who is calling."""
        return {
            name: value
            for name, value in super().changes().items()
            if name not in StrongConfirmation.model_fields
        }


class AccountDeletion(StrongConfirmation):
    model_config = ConfigDict(
        json_schema_extra={"examples": [{"password": "correct horse battery staple"}]}
    )


class EverywhereLogout(RequestBody):
    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"api_keys": True}, {"api_keys": False}]}
    )

    api_keys: bool = Field(
        default=False, description="Revoke your API keys as well. Default: false."
    )


class VerificationSent(BaseModel):
    message: ConstantMessage = "A code is on its way"


class EmailConfirmation(RequestBody):
    model_config = ConfigDict(
        json_schema_extra={"examples": [{"code": "MFRG-G2DF-MZTW-Q2LK-NBSW-Y3DP"}]}
    )

    code: CodeText = Field(description="The code from the mail.")
