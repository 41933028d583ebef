from datetime import datetime

from sqlalchemy import BigInteger, ForeignKey, Identity, Integer, String
from sqlalchemy.orm import Mapped, mapped_column

from app.database.base import Base

_ID = BigInteger().with_variant(Integer, "sqlite")


class Group(Base):
    __tablename__ = "groups"
    # An id is never reused: a new group must not revoke, or lend its scopes to, the tokens of a
    # deleted one.
    __table_args__ = ({"sqlite_autoincrement": True},)

    id: Mapped[int] = mapped_column(_ID, Identity(), primary_key=True)
    name: Mapped[str] = mapped_column(String(64))
    # As for usernames. Its unique index decides between simultaneous creations.
    name_folded: Mapped[str] = mapped_column(String(64), unique=True)
    # Separated by spaces.
    scopes: Mapped[str] = mapped_column(String(4000))
    # Part of every token of a member. A new version revokes the tokens with the old one.
    version: Mapped[int]
    created_at: Mapped[datetime]


class GroupMember(Base):
    __tablename__ = "group_members"

    group_id: Mapped[int] = mapped_column(
        _ID, ForeignKey("groups.id", ondelete="CASCADE"), primary_key=True
    )
    user_id: Mapped[int] = mapped_column(
        _ID, ForeignKey("users.id", ondelete="CASCADE"), primary_key=True, index=True
    )


class PendingRevocation(Base):
    """A user whose access tokens have yet to be revoked for old guards (old_guards.py). No foreign
    key: the rows are written while a group is locked, and users are locked before groups."""

    __tablename__ = "pending_revocations"

    user_id: Mapped[int] = mapped_column(_ID, primary_key=True, autoincrement=False)
