from datetime import datetime

from sqlalchemy import String
from sqlalchemy.orm import Mapped, mapped_column

from app.database.base import Base


class KeyHolder(Base):
    """A worker, and the fingerprints of its values of SECRET_KEY."""

    __tablename__ = "secret_key_holders"

    id: Mapped[str] = mapped_column(String(16), primary_key=True)  # of the process
    name: Mapped[str] = mapped_column(String(80))
    # In their order, between commas. Empty without SECRET_KEY.
    fingerprints: Mapped[str] = mapped_column(String(100))
    first_seen_at: Mapped[datetime]
    last_seen_at: Mapped[datetime]


class UsedKey(Base):
    """A value of SECRET_KEY that has been the first one, and so has encrypted secrets."""

    __tablename__ = "used_secret_keys"

    fingerprint: Mapped[str] = mapped_column(String(16), primary_key=True)
    used_since: Mapped[datetime]
