from datetime import datetime

from sqlalchemy import BigInteger, ForeignKey, Identity, Integer, String
from sqlalchemy.orm import Mapped, mapped_column

from app.database.base import Base

_ID = BigInteger().with_variant(Integer, "sqlite")


class Code(Base):
    """Gone once it is used."""

    __tablename__ = "codes"
    __table_args__ = ({"sqlite_autoincrement": True},)

    id: Mapped[int] = mapped_column(_ID, Identity(), primary_key=True)
    purpose: Mapped[str] = mapped_column(String(10))
    code_hash: Mapped[bytes] = mapped_column(unique=True)
    # Whose it is. An invitation is nobody's yet.
    user_id: Mapped[int | None] = mapped_column(
        _ID, ForeignKey("users.id", ondelete="CASCADE"), index=True
    )
    # The mailbox that it was sent to, which whoever has it can read; none if it was handed out.
    email: Mapped[str | None] = mapped_column(String(254))
    # Those of the user that an invitation makes.
    scopes: Mapped[str] = mapped_column(String(500))
    created_at: Mapped[datetime]
    expires_at: Mapped[datetime] = mapped_column(index=True)
