from datetime import datetime

from sqlalchemy import BigInteger, String
from sqlalchemy.orm import Mapped, mapped_column

from app.database import Base


class Revocation(Base):
    __tablename__ = "revocations"

    position: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    value: Mapped[str] = mapped_column(String(100), index=True)
    # From then on nothing that it ended could be valid anyway, so that the row can go.
    expires_at: Mapped[datetime] = mapped_column(index=True)


class Feed(Base):
    """One row. Whoever publishes adds to `position` and so holds the row until the commit: the
    positions appear in their order, without a gap, and no reader can pass one that comes late."""

    __tablename__ = "revocation_feed"

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    # Tells this feed from the one of another, or a restored, database.
    name: Mapped[str] = mapped_column(String(32))
    position: Mapped[int] = mapped_column(BigInteger)
