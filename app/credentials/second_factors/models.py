from datetime import datetime

from sqlalchemy import BigInteger, ForeignKey, Index, Integer, String, text
from sqlalchemy.orm import Mapped, mapped_column

from app.database.base import Base
from app.security.encrypted_columns import encrypted_as

_ID = BigInteger().with_variant(Integer, "sqlite")


class SecondFactor(Base):
    __tablename__ = "second_factors"
    __table_args__ = (
        Index(
            "ix_second_factors_unconfirmed",
            "created_at",
            postgresql_where=text("confirmed_at IS NULL"),
            sqlite_where=text("confirmed_at IS NULL"),
        ),
    )

    user_id: Mapped[int] = mapped_column(
        _ID, ForeignKey("users.id", ondelete="CASCADE"), primary_key=True
    )
    # 160 bits in base32, encrypted if SECRET_KEY is set (encryption.py).
    secret: Mapped[str] = mapped_column(String(200), info=encrypted_as("second factors"))
    created_at: Mapped[datetime]
    # Logins need no code before this time.
    confirmed_at: Mapped[datetime | None]
    # The time step of the newest accepted code. That code and older ones are not accepted again.
    last_step: Mapped[int] = mapped_column(BigInteger, default=0)
    # Wrong codes since the last right one, and when all of them will be forgiven (code_checks.py).
    failures: Mapped[int] = mapped_column(default=0)
    forgiven_at: Mapped[datetime]


class RecoveryCode(Base):
    """A one-time code. Its row is deleted when it is used."""

    __tablename__ = "recovery_codes"

    user_id: Mapped[int] = mapped_column(
        _ID,
        ForeignKey("second_factors.user_id", ondelete="CASCADE"),
        primary_key=True,
    )
    code_hash: Mapped[bytes] = mapped_column(primary_key=True)
