from typing import Annotated

from pydantic import AfterValidator, Field, SecretStr
from pydantic_core import PydanticCustomError

from app.security.one_time_codes import text

MAX_TYPED = 64


def _check_code(code: SecretStr) -> SecretStr:
    typed = code.get_secret_value()
    if len(typed) <= MAX_TYPED and text.PATTERN.fullmatch(read := text.parse_code(typed)):
        return SecretStr(read)
    raise PydanticCustomError("code", "Must be 24 letters and digits")


CodeText = Annotated[
    SecretStr,
    Field(json_schema_extra={"minLength": 16, "maxLength": MAX_TYPED}),
    AfterValidator(_check_code),
]
