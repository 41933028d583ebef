from datetime import datetime

from sqlalchemy import BigInteger, ForeignKey, Integer, String
from sqlalchemy.orm import Mapped, mapped_column

from app.database.base import Base

_ID = BigInteger().with_variant(Integer, "sqlite")


class SecondFactor(Base):
    __tablename__ = "second_factors"

    user_id: Mapped[int] = mapped_column(
        _ID, ForeignKey("users.id", ondelete="CASCADE"), primary_key=True
    )
    # 160 bits in base32, or the same encrypted under SECRET_KEY (vault.py)
    secret: Mapped[str] = mapped_column(String(200))
    created_at: Mapped[datetime]
    # Until then it is asked for nowhere.
    confirmed_at: Mapped[datetime | None]
    # Of the newest code that was accepted: neither that one nor an older one is taken again.
    last_step: Mapped[int] = mapped_column(BigInteger, default=0)
    # Wrong codes since the last right one, and when all wrong ones will be forgiven (service.py).
    failures: Mapped[int] = mapped_column(default=0)
    forgiven_at: Mapped[datetime]


class RecoveryCode(Base):
    """Each is of use once, so the row goes with its use."""

    __tablename__ = "recovery_codes"

    user_id: Mapped[int] = mapped_column(
        _ID,
        ForeignKey("second_factors.user_id", ondelete="CASCADE"),
        primary_key=True,
    )
    code_hash: Mapped[bytes] = mapped_column(primary_key=True)
