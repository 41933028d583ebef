from datetime import datetime

from sqlalchemy import String
from sqlalchemy.orm import Mapped, mapped_column

from app.database.base import Base


class Attempts(Base):
    """What has failed under a key; or, with no failures, that the key has succeeded lately; or,
    with IS_RATE in their place, when something may be done again (rates.py)."""

    __tablename__ = "attempts"

    key: Mapped[str] = mapped_column(String(32), primary_key=True)
    failures: Mapped[int]
    blocked_until: Mapped[datetime]
    expires_at: Mapped[datetime] = mapped_column(index=True)
