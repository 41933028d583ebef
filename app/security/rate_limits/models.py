from datetime import datetime

from sqlalchemy import String
from sqlalchemy.orm import Mapped, mapped_column

from app.database.base import Base


class AttemptCounter(Base):
    """The meaning depends on `failures`. Above 0: the failures under this key. 0: a recent success.
    IS_RATE: the key belongs to a Rate, and `blocked_until` is when its next action is allowed
    (rates.py)."""

    __tablename__ = "attempts"

    key: Mapped[str] = mapped_column(String(32), primary_key=True)
    failures: Mapped[int]
    blocked_until: Mapped[datetime]
    expires_at: Mapped[datetime] = mapped_column(index=True)
