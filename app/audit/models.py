from datetime import datetime

from sqlalchemy import BigInteger, Identity, Index, Integer, String, text
from sqlalchemy.orm import Mapped, mapped_column

from app.database.base import Base

_ID = BigInteger().with_variant(Integer, "sqlite")


class Entry(Base):
    """User ids are not foreign keys, because entries are kept when the user is deleted."""

    __tablename__ = "audit_log"
    __table_args__ = (
        Index("ix_audit_log_subject_id_id", "subject_id", "id"),
        Index("ix_audit_log_actor_id_id", "actor_id", "id"),
        Index("ix_audit_log_action_id", "action", "id"),
        Index(
            "ix_audit_log_strangers",
            "id",
            postgresql_where=text("actor_id IS NULL AND NOT succeeded"),
            sqlite_where=text("actor_id IS NULL AND succeeded = 0"),
        ),
        {"sqlite_autoincrement": True},
    )

    id: Mapped[int] = mapped_column(_ID, Identity(), primary_key=True)
    at: Mapped[datetime] = mapped_column(index=True)
    action: Mapped[str] = mapped_column(String(40))
    actor_id: Mapped[int | None] = mapped_column(BigInteger)
    subject_id: Mapped[int | None] = mapped_column(BigInteger)
    succeeded: Mapped[bool]
    ip_address: Mapped[str] = mapped_column("address", String(45))
    user_agent: Mapped[str] = mapped_column(String(200))
    request_id: Mapped[str | None] = mapped_column(String(64))
    details: Mapped[str] = mapped_column(String(1000))  # a JSON object
