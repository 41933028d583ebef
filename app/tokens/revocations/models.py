from datetime import datetime

from sqlalchemy import BigInteger, String
from sqlalchemy.orm import Mapped, mapped_column

from app.database.base import Base


class Revocation(Base):
    __tablename__ = "revocations"

    position: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    value: Mapped[str] = mapped_column(String(100), index=True)
    # Random. After a restore or a failover the same position may come again with another mark. 0 if
    # it was published before migration 0010.
    mark: Mapped[int] = mapped_column(BigInteger, server_default="0")
    # By the database's clock: when no token that it revokes can be valid (service.py).
    expires_at: Mapped[datetime] = mapped_column(index=True)


class Feed(Base):
    """One row. A publisher raises `position` and so locks the row until its commit: positions
    appear in their order, without a gap, and no reader can pass one that is committed late."""

    __tablename__ = "revocation_feed"

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    # Tells this feed from the one of another database.
    name: Mapped[str] = mapped_column(String(32))
    position: Mapped[int] = mapped_column(BigInteger)
    # That of the revocation at `position`, which may have been purged.
    mark: Mapped[int] = mapped_column(BigInteger, server_default="0")
