from pydantic import BaseModel, ConfigDict, Field

from app.codes.schemas import CodeText
from app.users.schemas import Email, Password


class PasswordChange(BaseModel):
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

    password: Password
    new_password: Password


class PasswordChanged(BaseModel):
    message: str = Field("Password changed", examples=["Password changed"])
    user_id: int = Field(examples=[10])


class ProfileChange(BaseModel):
    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [
                {
                    "password": "correct horse battery staple",
                    "email": "eligijus@testmail.com",
                }
            ]
        },
    )

    password: Password
    email: Email | None


class Farewell(BaseModel):
    model_config = ConfigDict(
        json_schema_extra={"examples": [{"password": "correct horse battery staple"}]}
    )

    password: Password


class VerificationSent(BaseModel):
    message: str = Field("A code is on its way", examples=["A code is on its way"])


class VerificationProof(BaseModel):
    model_config = ConfigDict(json_schema_extra={"examples": [{"code": "MFRG-G2DF-MZTW-Q2LK"}]})

    code: CodeText
