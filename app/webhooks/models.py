from datetime import datetime

from sqlalchemy import BigInteger, Identity, Index, Integer, String
from sqlalchemy.orm import Mapped, mapped_column

from app.database.base import Base
from app.database.outbox import Queued
from app.security.encrypted_columns import encrypted_as


class WebhookEndpoint(Base):
    __tablename__ = "webhook_endpoints"
    # An id is never reused: a delivery that was queued for a deleted endpoint must not go to
    # another one.
    __table_args__ = ({"sqlite_autoincrement": True},)

    id: Mapped[int] = mapped_column(
        BigInteger().with_variant(Integer, "sqlite"), Identity(), primary_key=True
    )
    url: Mapped[str] = mapped_column(String(2000))
    # Types of events, separated by spaces. Empty: all.
    types: Mapped[str] = mapped_column(String(1000))
    # Encrypted (encryption.py).
    secret: Mapped[str] = mapped_column(String(200), info=encrypted_as("webhook secrets"))
    # The secret before the last rotation. Until that time, messages are signed with both.
    previous_secret: Mapped[str | None] = mapped_column(
        String(200), info=encrypted_as("webhook secrets")
    )
    previous_secret_until: Mapped[datetime | None]
    is_enabled: Mapped[bool]
    # Why the service disabled it: GONE or FAILING. None if an administrator did.
    disabled_reason: Mapped[str | None] = mapped_column(String(20))
    # The first failure since the last success.
    failing_since: Mapped[datetime | None]
    created_at: Mapped[datetime]

    def has_previous_secret(self, now: datetime) -> bool:
        """Whether messages are also signed with the secret before the last rotation."""
        until = self.previous_secret_until
        return until is not None and now < until


class WebhookDelivery(Queued, Base):
    """A message that waits for one endpoint, or a dead letter: one that was given up. Delivered
    messages are deleted. The ids of endpoints and users are not foreign keys: an operation that
    queues a message must not wait for one that deletes an endpoint."""

    __tablename__ = "webhook_deliveries"
    __table_args__ = (
        Index("ix_webhook_deliveries_endpoint_id_due_at", "endpoint_id", "due_at"),
        {"sqlite_autoincrement": True},
    )

    endpoint_id: Mapped[int] = mapped_column(BigInteger)
    # The same for all endpoints, and for each try.
    message_id: Mapped[str] = mapped_column(String(40))
    type: Mapped[str] = mapped_column(String(40))
    user_id: Mapped[int | None] = mapped_column(BigInteger, index=True)
    # As it was when the message was queued. None if the user has been deleted since.
    username: Mapped[str | None] = mapped_column(String(64))
    details: Mapped[str] = mapped_column(String(200))  # further members of `data`, a JSON object
    given_up_at: Mapped[datetime | None] = mapped_column(index=True)
    # The result of the last try: the status of the response, or why there was none.
    last_status: Mapped[int | None]
    last_error: Mapped[str | None] = mapped_column(String(40))
    created_at: Mapped[datetime] = mapped_column(index=True)
