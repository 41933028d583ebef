from datetime import datetime
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from app.database.ids import Id
from app.http.bodies import Change, ConstantMessage, RequestBody
from app.http.pagination import NextCursor, PageQuery
from app.outbound_http.urls import MAX_LENGTH
from app.webhooks.event_types import TYPES, EventType
from app.webhooks.models import WebhookDelivery, WebhookEndpoint
from app.webhooks.service import EndpointWithSecret

MAX_OVERLAP_SECONDS = 7 * 24 * 60 * 60

_URL = "https://hooks.example.org/hourpass"

Url = Annotated[
    str,
    Field(
        min_length=1,
        max_length=MAX_LENGTH,
        description="Where messages are sent: an https URL whose host has public addresses, unless "
        "`OUTBOUND_NETWORKS` allows others.",
        examples=[_URL],
    ),
]
Types = Annotated[list[EventType], Field(max_length=len(TYPES))]


class WebhookRecord(BaseModel):
    id: int = Field(description="Never used again.", examples=[1])
    url: str = Field(description="Where messages are sent.", examples=[_URL])
    types: list[EventType] = Field(
        description="Types of the messages that are sent.", examples=[["user.created"]]
    )
    is_enabled: bool = Field(description="Whether messages are sent.")
    disabled_reason: Literal["gone", "failing"] | None = Field(
        description="Why the service disabled it. `gone`: it responded with 410. `failing`: it "
        "only failed for three days. Null if the service did not disable it.",
    )
    failing_since: datetime | None = Field(
        description="The first failure since the last message that was delivered. Null if the last "
        "one was."
    )
    has_previous_secret: bool = Field(
        description="Whether messages are also signed with the secret before the last rotation."
    )
    created_at: datetime = Field(description="When it was created.")

    @classmethod
    def of(cls, endpoint: WebhookEndpoint, now: datetime) -> "WebhookRecord":
        return cls.model_validate(_fields(endpoint, now))


class WebhookWithSecret(WebhookRecord):
    secret: str = Field(
        description="Verifies the signatures of messages. It is not shown again.",
        examples=["whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSwMfKQ9r8GKYo="],
    )

    @classmethod
    def with_secret(cls, found: EndpointWithSecret, now: datetime) -> "WebhookWithSecret":
        return cls.model_validate({**_fields(found.endpoint, now), "secret": found.secret})


def _fields(endpoint: WebhookEndpoint, now: datetime) -> dict[str, object]:
    return {
        "id": endpoint.id,
        "url": endpoint.url,
        "types": endpoint.types.split() or list(TYPES),
        "is_enabled": endpoint.is_enabled,
        "disabled_reason": endpoint.disabled_reason,
        "failing_since": endpoint.failing_since,
        "has_previous_secret": endpoint.has_previous_secret(now),
        "created_at": endpoint.created_at,
    }


class WebhookList(BaseModel):
    webhooks: list[WebhookRecord] = Field(description="In the order of their ids, 10 at most.")


class NewWebhook(RequestBody):
    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"examples": [{"url": _URL, "types": ["user.created", "user.deleted"]}]},
    )

    url: Url
    types: Types = Field([], description="Types of messages. Default: all.")


class WebhookChange(Change):
    """Omitted and null members do not change."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"is_enabled": True}, {"types": ["user.deleted"]}]}
    )

    url: Url | None = Field(None, description="The new URL.")
    types: Types | None = Field(
        None, description="Replaces the types. An empty list stands for all."
    )
    is_enabled: bool | None = Field(
        None,
        description="`false` stops the messages: those that wait become dead letters. `true` "
        "sends new ones again.",
    )


class SecretRotation(RequestBody):
    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"overlap_seconds": 3600}]}
    )

    overlap_seconds: int = Field(
        86_400,
        ge=0,
        le=MAX_OVERLAP_SECONDS,
        description="How long messages are signed with both secrets. Default: 86400, a day.",
    )


class WebhookTestResult(BaseModel):
    is_delivered: bool = Field(description="Whether the response was 2xx.")
    status: int | None = Field(
        description="Status of the response. Null if there was none.", examples=[204]
    )
    reason: str | None = Field(
        description="Why there was no response, such as `address_not_allowed`, `tls` or `timeout`. "
        "Null if there was one.",
        examples=["timeout"],
    )


class DeliveryQuery(PageQuery):
    state: Literal["waiting", "dead"] | None = Field(
        None, description="Only what waits, or only dead letters."
    )


class DeliveryRecord(BaseModel):
    id: int = Field(description="Of this message to this webhook.", examples=[7])
    message_id: str = Field(
        description="The `webhook-id`, the same for each try.",
        examples=["msg_3f0c6f6bd1b94cbc8b2bb0a7a1f6a0d5"],
    )
    type: str = Field(description="Type of the message.", examples=["user.created"])
    user_id: int | None = Field(description="User that it concerns, if any.", examples=[10])
    state: Literal["waiting", "dead"] = Field(
        description="`waiting`: it is sent, or sent again, soon. `dead`: it was given up."
    )
    attempts: int = Field(description="How often it was sent.", examples=[3])
    due_at: datetime | None = Field(description="When it is sent next. Null for dead letters.")
    last_status: int | None = Field(
        description="Status of the last response, if there was one.", examples=[503]
    )
    last_error: str | None = Field(
        description="Why the last try had no response.", examples=["timeout"]
    )
    created_at: datetime = Field(description="When it happened.")

    @classmethod
    def of(cls, delivery: WebhookDelivery) -> "DeliveryRecord":
        is_dead = delivery.given_up_at is not None
        return cls(
            id=delivery.id,
            message_id=delivery.message_id,
            type=delivery.type,
            user_id=delivery.user_id,
            state="dead" if is_dead else "waiting",
            attempts=delivery.attempts,
            due_at=None if is_dead else delivery.due_at,
            last_status=delivery.last_status,
            last_error=delivery.last_error,
            created_at=delivery.created_at,
        )


class DeliveryPage(BaseModel):
    deliveries: list[DeliveryRecord] = Field(description="In the order of their ids.")
    next_cursor: NextCursor


class Retry(RequestBody):
    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{}, {"delivery_id": 7}]}
    )

    delivery_id: Id | None = Field(None, description="Only this dead letter. Default: all.")


class RetryResult(BaseModel):
    message: ConstantMessage = "Dead letters are sent again"
    deliveries: int = Field(description="How many there were.", examples=[3])


class WebhookRemoved(BaseModel):
    message: ConstantMessage = "Webhook deleted"
