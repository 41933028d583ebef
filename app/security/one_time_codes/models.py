from datetime import datetime
from typing import NamedTuple

from sqlalchemy import BigInteger, ForeignKey, Identity, Integer, String
from sqlalchemy.orm import Mapped, mapped_column

from app.database.base import Base, widened

_ID = BigInteger().with_variant(Integer, "sqlite")


class MailStatus(NamedTuple):
    state: str
    reply_code: int | None
    enhanced_code: str | None


class Code(Base):
    """A one-time code. Its row is deleted when it is used."""

    __tablename__ = "codes"
    __table_args__ = ({"sqlite_autoincrement": True},)

    id: Mapped[int] = mapped_column(_ID, Identity(), primary_key=True)
    purpose: Mapped[str] = mapped_column(String(10))
    code_hash: Mapped[bytes] = mapped_column(unique=True)  # of the newest text; see EarlierHash
    # The only user who can use it; None for an invitation.
    user_id: Mapped[int | None] = mapped_column(
        _ID, ForeignKey("users.id", ondelete="CASCADE"), index=True
    )
    # The mailbox that it was sent to, which using the code verifies. None if an administrator
    # passed the code on.
    email: Mapped[str | None] = mapped_column(String(254))
    # The scopes that a user gets who registers with this invitation.
    scopes: Mapped[str] = mapped_column(widened(500))
    created_at: Mapped[datetime]
    expires_at: Mapped[datetime] = mapped_column(index=True)
    # What became of its mail: a MailState, and the last reply of the mail server (RFC 5321, 4.2;
    # RFC 3463). None if the code was not mailed.
    mail_state: Mapped[str | None] = mapped_column(String(10))
    mail_reply_code: Mapped[int | None]
    mail_enhanced_code: Mapped[str | None] = mapped_column(String(11))

    @property
    def mail(self) -> MailStatus | None:
        if self.mail_state is None:
            return None
        return MailStatus(self.mail_state, self.mail_reply_code, self.mail_enhanced_code)


class EarlierHash(Base):
    """An earlier text of a code, which was mailed more than once. It stays valid until one of them
    is used, because nobody knows which of the messages the user reads."""

    __tablename__ = "earlier_code_hashes"

    code_hash: Mapped[bytes] = mapped_column(primary_key=True)
    code_id: Mapped[int] = mapped_column(ForeignKey("codes.id", ondelete="CASCADE"), index=True)
    replaced_at: Mapped[datetime]
