"""HTTP bodies about codes and second factors."""

import re
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr
from pydantic_core import PydanticCustomError

from app.http.bodies import ConstantMessage, RequestBody
from app.security.one_time_codes import text
from app.security.one_time_codes.schemas import MAX_TYPED
from app.security.passwords import Password

_CODE = re.compile(rf"[0-9]{{6}}|{text.PATTERN.pattern}")


def _check_otp(otp: SecretStr) -> SecretStr:
    typed = otp.get_secret_value()
    if len(typed) <= MAX_TYPED and _CODE.fullmatch(code := text.parse_code(typed)):
        return SecretStr(code)
    raise PydanticCustomError("otp", "Must be 6 digits or a recovery code")


Otp = Annotated[
    SecretStr,
    Field(
        description="6 digits from the authenticator app, or a recovery code.",
        json_schema_extra={"minLength": 6, "maxLength": MAX_TYPED},
    ),
    AfterValidator(_check_otp),
]


class StrongConfirmation(RequestBody):
    """Confirms that the caller is the owner of the account."""

    password: Password = Field(description="The current password.")
    otp: Otp | None = Field(
        None,
        description="Only with a second factor: 6 digits from the authenticator app, or a recovery "
        "code.",
    )


class PasswordConfirmation(RequestBody):
    model_config = ConfigDict(
        json_schema_extra={"examples": [{"password": "correct horse battery staple"}]}
    )

    password: Password = Field(description="The current password.")


class OtpConfirmation(RequestBody):
    model_config = ConfigDict(json_schema_extra={"examples": [{"otp": "123456"}]})

    otp: Otp


class PasswordAndOtp(RequestBody):
    """The password and a code, as for a login."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"password": "correct horse battery staple", "otp": "123456"}]
        }
    )

    password: Password = Field(description="The current password.")
    otp: Otp


class SecondFactorState(BaseModel):
    enabled: bool = Field(description="Whether logins need a code.", examples=[True])
    recovery_codes_left: int = Field(
        description="Recovery codes that were not used yet.", examples=[10]
    )


class Enrollment(BaseModel):
    """Not shown again. Authenticator apps read `otpauth_uri` from a QR code."""

    secret: str = Field(
        description="Base32. Type it into an authenticator app.",
        examples=["JBSWY3DPEHPK3PXPJBSWY3DPEHPK3PXP"],
    )
    otpauth_uri: str = Field(
        description="The same as a URI, for a QR code.",
        examples=["otpauth://totp/login.example.org:eligijus?secret=JBSWY3DPEHPK3PXP…"],
    )


class RecoveryCodeSet(BaseModel):
    """Not shown again. Each replaces a code from the app once."""

    recovery_codes: list[str] = Field(
        description="Keep them in a safe place.", examples=[["MFRG-G2DF-MZTW-Q2LK-NBSW-Y3DP"]]
    )


class SecondFactorRemoved(BaseModel):
    message: ConstantMessage = "Second factor removed"
