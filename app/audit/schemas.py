import re
from datetime import UTC, datetime
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, Json
from pydantic_core import PydanticCustomError

from app.database.ids import Id
from app.http.bodies import ConstantMessage
from app.http.pagination import PageQuery

# Pydantic also reads numbers, as seconds or milliseconds since 1970. `2027` would be in the first
# hour of 1970, and the response 200 with the wrong entries.
_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}(?![0-9]).*", re.ASCII)
# A time whose + was not encoded: in a query, + means a space.
_LOST_PLUS = re.compile(r".*\d \d\d:?\d\d")

_EARLIEST = datetime(1, 1, 1, tzinfo=UTC)
_LATEST = datetime(9999, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC)


def _check_format(value: Any) -> Any:
    if isinstance(value, str) and not _DATE.fullmatch(value):
        rule = "Must be a date and time (RFC 3339), such as 2026-11-23T12:00:00Z"
        raise PydanticCustomError("moment", rule)
    if isinstance(value, str) and "T" in value.upper() and _LOST_PLUS.fullmatch(value):
        raise PydanticCustomError("moment", "Write the + of the time zone as %2B in a query")
    return value


def _in_utc(moment: datetime) -> datetime:
    if moment.tzinfo is None:
        return moment.replace(tzinfo=UTC)
    try:
        return moment.astimezone(UTC)
    except OverflowError:  # less than a day beyond the calendar
        return _EARLIEST if moment.year == 1 else _LATEST


Moment = Annotated[datetime, BeforeValidator(_check_format), AfterValidator(_in_utc)]


class AuditEntry(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    id: int = Field(description="Later entries have larger ids.", examples=[512])
    at: datetime = Field(description="When it happened.")
    action: str = Field(description="What was done.", examples=["user.disable"])
    actor_id: int | None = Field(description="User who did it, if any.", examples=[1])
    subject_id: int | None = Field(
        description="User whose account it concerns, if any.", examples=[10]
    )
    succeeded: bool = Field(description="False if it was refused.")
    address: str | None = Field(
        validation_alias="ip_address",
        description="IP address of the caller. Null for commands on the server.",
        examples=["192.0.2.7"],
    )
    user_agent: str | None = Field(
        description="User agent of the caller, if it sent one.", examples=["curl/8.5.0"]
    )
    request_id: str | None = Field(
        description="`X-Request-Id` of the response.", examples=["8b8e6d5bb1-7"]
    )
    details: Annotated[dict[str, str], Json] = Field(
        description="More about the action.", examples=[{}]
    )


class AuditQuery(PageQuery):
    action: str | None = Field(
        None,
        pattern=r"^[a-z_]{1,20}(\.[a-z_]{0,20})?$",
        description="The whole action, or its first part with the dot.",
        examples=["user.", "login"],
    )
    actor_id: Id | None = Field(None, description="Only what this user did.")
    subject_id: Id | None = Field(None, description="Only what concerns the account of this user.")
    succeeded: bool | None = Field(
        None, description="Only what succeeded, or only what was refused."
    )
    since: Moment | None = Field(
        None, description="Earliest time (RFC 3339). Default time zone: UTC."
    )
    until: Moment | None = Field(None, description="Latest time, exclusive.")


class AuditPage(BaseModel):
    entries: list[AuditEntry] = Field(description="The latest first.")
    next_cursor: str | None = Field(
        description="Send it as `cursor` to get older entries. Null on the last page.",
        examples=["463"],
    )


class PersonalDataErased(BaseModel):
    message: ConstantMessage = "Personal data erased"
    user_id: int = Field(description="The user's id.", examples=[10])
    entries: int = Field(description="How many entries were changed.", examples=[37])
