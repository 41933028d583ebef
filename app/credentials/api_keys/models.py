from datetime import date, datetime

from sqlalchemy import BigInteger, ForeignKey, Integer, String
from sqlalchemy.orm import Mapped, mapped_column

from app.database.base import Base


class ApiKey(Base):
    __tablename__ = "api_keys"

    # The first part of the key; no secret. The `client_id` of the key's access tokens.
    id: Mapped[str] = mapped_column(String(8), primary_key=True)
    user_id: Mapped[int] = mapped_column(
        BigInteger().with_variant(Integer, "sqlite"),
        ForeignKey("users.id", ondelete="CASCADE"),
        index=True,
    )
    name: Mapped[str] = mapped_column(String(64))
    label: Mapped[str | None] = mapped_column(String(64))
    # SHA-256 of the whole key. 190 random bits need no slow hash.
    secret_hash: Mapped[bytes]
    # Access tokens of this key have the `sid` <id>.<version>. Each change that narrows the key
    # revokes that `sid` and increments the version.
    version: Mapped[int]
    # Separated by spaces. None: those of the owner, except EXPLICIT_SCOPES.
    scopes: Mapped[str | None] = mapped_column(String(4000))
    # From which the key works, in CIDR notation, separated by spaces. None: from everywhere.
    networks: Mapped[str | None] = mapped_column(String(1000))
    created_at: Mapped[datetime]
    expires_at: Mapped[datetime] = mapped_column(index=True)
    last_used_on: Mapped[date | None]
    suspended_at: Mapped[datetime | None]
    revoked_at: Mapped[datetime | None]
    # The id of the key that it was rotated to. `expires_at` is then the end of the overlap.
    replaced_by: Mapped[str | None] = mapped_column(String(8))
