from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from app.http.bodies import RequestBody

Language = Annotated[
    str,
    Field(
        max_length=35,
        pattern="^[A-Za-z]{1,8}(-[A-Za-z0-9]{1,8})*$",
        description="Language of the mail (RFC 5646), such as `de`. English if there is no text in "
        "it. Default: the `Accept-Language` of the request.",
        examples=["de"],
    ),
]


class MailStatus(BaseModel):
    """The state of the mail."""

    model_config = ConfigDict(from_attributes=True)

    state: Literal["queued", "sent", "failed"] = Field(
        description="`queued`: it is sent, or sent again, soon. `sent`: the mail server accepted "
        "it. `failed`: the mail server refused it, and it is not tried again.",
        examples=["failed"],
    )
    reply_code: int | None = Field(
        description="Reply code of the mail server (RFC 5321) to the last try that failed. Null if "
        "it did not reply.",
        examples=[550],
    )
    enhanced_code: str | None = Field(
        description="Its enhanced status code (RFC 3463), if the reply had one.",
        examples=["5.1.1"],
    )


class MailAgain(RequestBody):
    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"language": "de"}]})

    language: Language | None = None
