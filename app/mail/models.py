from datetime import datetime

from sqlalchemy import BigInteger, ForeignKey, Integer, String, false
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Mapped, mapped_column

from app.context import RequestContext
from app.database.base import Base
from app.database.outbox import Queued
from app.security.encrypted_columns import encrypted_as

_ID = BigInteger().with_variant(Integer, "sqlite")


class OutgoingMail(Queued, Base):
    """Waiting mail. The text of its code is generated at the first try, and is stored only
    encrypted: with SECRET_KEY, or without one with a key that only the sending process has."""

    __tablename__ = "outbox"
    __table_args__ = ({"sqlite_autoincrement": True},)

    # The code to send. Without a code and a notice, the row is a request, which worker.py expands:
    # with a user, to verify the address of that user; without a user, to reset the passwords of the
    # address.
    code_id: Mapped[int | None] = mapped_column(
        _ID, ForeignKey("codes.id", ondelete="CASCADE"), index=True
    )
    user_id: Mapped[int | None] = mapped_column(BigInteger)
    email: Mapped[str] = mapped_column(String(254))
    # The template of a notice to the user (notices.py), and its values as a JSON object.
    notice: Mapped[str | None] = mapped_column(String(40))
    details: Mapped[str | None] = mapped_column(String(1000))
    # From the request of the client: Accept-Language, and fields of the audit log.
    accept_language: Mapped[str] = mapped_column("languages", String(100))
    ip_address: Mapped[str] = mapped_column("address", String(45))
    user_agent: Mapped[str] = mapped_column(String(200))
    request_id: Mapped[str | None] = mapped_column(String(64))
    # The text of the code, for the next try. If that cannot decrypt it, it sends another code.
    encrypted_code: Mapped[str | None] = mapped_column(
        String(200), info=encrypted_as("queued codes", is_replaceable=True)
    )
    # Whether the last try failed for a reason that concerns all mail.
    waits_for_server: Mapped[bool] = mapped_column(
        default=False, server_default=false(), index=True
    )
    due_at: Mapped[datetime] = mapped_column(index=True)
    created_at: Mapped[datetime] = mapped_column(index=True)

    def context(self, session: AsyncSession, now: datetime) -> RequestContext:
        """The context of the request that queued it, for events."""
        return RequestContext(
            session,
            now,
            self.ip_address,
            self.user_agent,
            self.accept_language,
            self.request_id,
        )
