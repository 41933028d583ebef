from datetime import datetime

from sqlalchemy import BigInteger, String
from sqlalchemy.orm import Mapped, mapped_column

from app.database.base import Base


class Revocation(Base):
    __tablename__ = "revocations"

    position: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    value: Mapped[str] = mapped_column(String(100), index=True)
    # Random. After a restore or a failover, the same position may be used again with another mark.
    # 0 if it was published before migration 0010.
    mark: Mapped[int] = mapped_column(BigInteger, server_default="0")
    # By the database's clock. No token that it revokes can be valid then (service.py).
    expires_at: Mapped[datetime] = mapped_column(index=True)


class Feed(Base):
    """One row. A publisher increments `position`, which locks the row until the commit. So
    positions become visible in order and without gaps, and no reader can skip one that is committed
    late."""

    __tablename__ = "revocation_feed"

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    # Distinguishes this feed from that of another database.
    name: Mapped[str] = mapped_column(String(32))
    position: Mapped[int] = mapped_column(BigInteger)
    # The mark of the revocation at `position`, whose row may have been deleted.
    mark: Mapped[int] = mapped_column(BigInteger, server_default="0")
