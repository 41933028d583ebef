from datetime import datetime

from sqlalchemy import BigInteger, ForeignKey, Identity, Integer, String
from sqlalchemy.orm import Mapped, mapped_column

from app.database.base import Base

_ID = BigInteger().with_variant(Integer, "sqlite")


class OutgoingMail(Base):
    """Waits to be sent. Holds no secret: a code gets its text when its letter is written."""

    __tablename__ = "outbox"
    __table_args__ = ({"sqlite_autoincrement": True},)

    id: Mapped[int] = mapped_column(_ID, Identity(), primary_key=True)
    # What it brings. Without one it is a wish, until the postman has looked whose the address is:
    # to have the user's verified or, for no user, to get a new password.
    code_id: Mapped[int | None] = mapped_column(
        _ID, ForeignKey("codes.id", ondelete="CASCADE"), index=True
    )
    user_id: Mapped[int | None] = mapped_column(BigInteger)
    email: Mapped[str] = mapped_column(String(254))
    # Of whom asked for it: Accept-Language, and what the audit log wants to know.
    accept_language: Mapped[str] = mapped_column("languages", String(100))
    ip_address: Mapped[str] = mapped_column("address", String(45))
    user_agent: Mapped[str] = mapped_column(String(200))
    request_id: Mapped[str | None] = mapped_column(String(64))
    attempts: Mapped[int]
    due_at: Mapped[datetime] = mapped_column(index=True)
    created_at: Mapped[datetime] = mapped_column(index=True)
