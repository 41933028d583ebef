"""HTTP bodies about API keys, and the rules for their members."""

from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from pydantic_core import PydanticCustomError

from app.credentials.api_keys.limits import (
    DEFAULT_DAYS,
    MAX_DAYS,
    MAX_OVERLAP_SECONDS,
    MAX_SCOPES,
    MAX_SCOPES_LENGTH,
)
from app.credentials.api_keys.models import ApiKey
from app.credentials.api_keys.networks import parse_network
from app.credentials.second_factors.schemas import Otp
from app.http.bodies import Change, RequestBody
from app.http.pagination import NextCursor, PageQuery
from app.tokens.jwt import MAX_NETWORKS
from app.tokens.scopes import OFFLINE_ACCESS
from app.users.visible_text import check_visible_text
from hourpass.api_keys import KEY_LENGTH, PATTERN
from hourpass.scopes import find_error

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_LATEST = datetime.max.replace(tzinfo=UTC)


def _check_label(label: str) -> str:
    return label and check_visible_text(label)


def _check_scopes(scopes: list[str]) -> list[str]:
    for scope in scopes:
        if error := find_error(scope):
            raise PydanticCustomError("scopes", error)
        if scope == OFFLINE_ACCESS:
            raise PydanticCustomError("scopes", "A key cannot have offline_access")
    if len(" ".join(scopes)) > MAX_SCOPES_LENGTH:
        message = f"Must have at most {MAX_SCOPES_LENGTH} characters in total"
        raise PydanticCustomError("scopes", message)
    return sorted(set(scopes))


def _check_networks(networks: list[str]) -> list[str]:
    try:
        return sorted({str(parse_network(network)) for network in networks})
    except ValueError as error:
        raise PydanticCustomError("networks", "{problem}", {"problem": str(error)}) from None


Name = Annotated[str, Field(min_length=1, max_length=64), AfterValidator(check_visible_text)]
Label = Annotated[str, Field(max_length=64), AfterValidator(_check_label)]
Scopes = Annotated[list[str], Field(max_length=MAX_SCOPES), AfterValidator(_check_scopes)]
Networks = Annotated[list[str], Field(max_length=MAX_NETWORKS), AfterValidator(_check_networks)]
Days = Annotated[int, Field(ge=1, le=MAX_DAYS)]


class SecondFactorConfirmation(RequestBody):
    """A body that may need a code."""

    model_config = ConfigDict(extra="forbid")

    otp: Otp | None = Field(
        None,
        description="Only with a second factor, and only if you did not log in with it during the "
        "last 15 minutes: 6 digits from the authenticator app, or a recovery code.",
    )


class NewApiKey(SecondFactorConfirmation):
    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [
                {"name": "nightly batch", "scopes": ["predict:fraud-*"], "expires_in_days": 30}
            ]
        },
    )

    name: Name = Field(description="What the key is for. Not unique.")
    label: Label | None = Field(None, description="Such as a project. Default: none.")
    scopes: Scopes | None = Field(
        None,
        description="Only scopes that the owner has, or narrower ones. Default: those of the owner "
        "at each use, except `admin`, `introspect` and `guard`.",
    )
    expires_in_days: Days = Field(
        DEFAULT_DAYS, description=f"Lifetime in days. Default: {DEFAULT_DAYS}."
    )
    networks: Networks = Field(
        [],
        description="From which the key works, in CIDR notation, IPv4 or IPv6. Default: from "
        "everywhere.",
    )


class ApiKeyChange(Change, SecondFactorConfirmation):
    """Omitted and null members do not change."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [{"name": "hourly batch"}, {"scopes": []}, {"networks": ["192.0.2.0/24"]}]
        },
    )

    name: Name | None = Field(None, description="What the key is for.")
    label: Label | None = Field(None, description="An empty string removes the label.")
    scopes: Scopes | None = Field(
        None, description="Scopes that the key has already, or narrower ones. Replaces all."
    )
    expires_in_days: Days | None = Field(
        None, description="The new lifetime in days, from now. Not longer than what is left."
    )
    networks: Networks | None = Field(
        None,
        description="Replaces all. With an empty list the key works from everywhere.",
    )


class ApiKeyRotation(SecondFactorConfirmation):
    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"overlap_seconds": 3600}]}
    )

    overlap_seconds: int = Field(
        0,
        ge=0,
        le=MAX_OVERLAP_SECONDS,
        description="How long the old key works beside the new one, but never longer than before. "
        "Default: 0, which revokes the old key at once.",
    )


class ApiKeyRecord(BaseModel):
    id: str = Field(
        description="The key's id: the 8 characters after `hp_`.", examples=["7bQk2ZpX"]
    )
    name: str = Field(description="What the key is for.", examples=["nightly batch"])
    label: str | None = Field(description="Null if there is none.", examples=["churn model"])
    status: Literal["active", "suspended", "expired", "revoked"] = Field(
        description="Only an `active` key works, while its owner is enabled.", examples=["active"]
    )
    scopes: list[str] | None = Field(
        description="Null: those of the owner at each use, except `admin`, `introspect` and "
        "`guard`. A key never has a scope that its owner does not have.",
        examples=[["predict:fraud-*"]],
    )
    networks: list[str] = Field(
        description="From which the key works. Empty: from everywhere.",
        examples=[["192.0.2.0/24"]],
    )
    created_at: datetime = Field(description="When the key was created.")
    expires_at: datetime = Field(
        description="From when the key does not work: its end, the end of the overlap after a "
        "rotation, or when it was revoked."
    )
    last_used_on: date | None = Field(
        description="The day (UTC) of the last use. Null if it was never used. Up to an hour late.",
        examples=["2026-11-30"],
    )
    suspended_at: datetime | None = Field(description="Null unless it is suspended.")
    revoked_at: datetime | None = Field(description="Null unless it was revoked.")
    replaced_by: str | None = Field(
        description="The id of the key that it was rotated to, if any.", examples=["Xw3pT0aB"]
    )

    @classmethod
    def of(cls, api_key: ApiKey, now: datetime, **members: str) -> Self:
        return cls(
            id=api_key.id,
            name=api_key.name,
            label=api_key.label,
            status=_status(api_key, now),
            scopes=None if api_key.scopes is None else api_key.scopes.split(),
            networks=(api_key.networks or "").split(),
            created_at=api_key.created_at,
            expires_at=api_key.expires_at,
            last_used_on=api_key.last_used_on,
            suspended_at=api_key.suspended_at,
            revoked_at=api_key.revoked_at,
            replaced_by=api_key.replaced_by,
            **members,
        )


class ApiKeyCreated(ApiKeyRecord):
    """The key is not shown again."""

    key: str = Field(
        description="Send it as a bearer token. Keep it like a password.",
        min_length=KEY_LENGTH,
        max_length=KEY_LENGTH,
        pattern=f"^{PATTERN}$",
        examples=["hp_7bQk2ZpXd0ruTz3kMnq8sB1vYcJ4LhWgE6oRa9Fi1zlbFX"],
    )


class ApiKeyQuery(PageQuery):
    include_ended: bool = Field(
        default=False,
        description="Also revoked and expired keys. They are deleted after 90 days.",
    )

    @property
    def before(self) -> datetime:
        """When the last key of the previous page was created. No two keys of a user have the same
        time (service.py)."""
        if self.position is None or self.position > (_LATEST - _EPOCH) // _MICROSECOND:
            return _LATEST
        return _EPOCH + self.position * _MICROSECOND

    def paginate_by_time(self, found: Sequence[ApiKey]) -> tuple[Sequence[ApiKey], str | None]:
        """Like paginate(), for rows whose ids are not numbers."""
        page = found[: self.limit]
        further = len(found) > self.limit
        return page, str((page[-1].created_at - _EPOCH) // _MICROSECOND) if further else None


class ApiKeyPage(BaseModel):
    api_keys: list[ApiKeyRecord] = Field(description="The newest first.")
    next_cursor: NextCursor

    @classmethod
    def of(cls, page: Sequence[ApiKey], now: datetime, next_cursor: str | None) -> Self:
        records = [ApiKeyRecord.of(api_key, now) for api_key in page]
        return cls(api_keys=records, next_cursor=next_cursor)


def _status(api_key: ApiKey, now: datetime) -> Literal["active", "suspended", "expired", "revoked"]:
    if api_key.revoked_at:
        return "revoked"
    if api_key.expires_at <= now:
        return "expired"
    return "suspended" if api_key.suspended_at else "active"
