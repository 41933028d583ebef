from datetime import datetime

from sqlalchemy import BigInteger, ForeignKey, Integer, String, false
from sqlalchemy.orm import Mapped, mapped_column

from app.database.base import Base, widened


class Session(Base):
    __tablename__ = "sessions"

    # Shown to the user, and the `sid` of the session's access tokens.
    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    user_id: Mapped[int] = mapped_column(
        BigInteger().with_variant(Integer, "sqlite"),
        ForeignKey("users.id", ondelete="CASCADE"),
        index=True,
    )
    # The user's version when the session was created. A new version revokes the session.
    token_version: Mapped[int] = mapped_column("epoch")
    scope: Mapped[str] = mapped_column(widened(1000))
    # Whether the login asked for less than all rights of the account (Claims.is_limited).
    is_limited: Mapped[bool] = mapped_column(default=False, server_default=false())
    # The API for which the tokens are (RFC 8707). None: the setting AUDIENCE.
    audience: Mapped[str | None] = mapped_column(String(200))
    # Only in refresh tokens, so that knowing a `sid` does not help an attacker.
    handle: Mapped[str] = mapped_column(String(32), unique=True)
    secret_hash: Mapped[bytes]
    previous_secret_hash: Mapped[bytes | None]
    # Each secret is derived from the previous one with this key (service.py).
    rotation_key: Mapped[bytes]
    rotated_at: Mapped[datetime]
    created_at: Mapped[datetime]
    expires_at: Mapped[datetime] = mapped_column(index=True)
    ip_address: Mapped[str] = mapped_column("address", String(45))
    user_agent: Mapped[str] = mapped_column(String(200))
