import secrets
from datetime import datetime

from sqlalchemy import BigInteger, Identity, Index, Integer, String, text
from sqlalchemy.orm import Mapped, mapped_column, validates

from app.database.base import Base, widened
from app.tokens.jwt import PERSON

MAX_TOKEN_VERSION = 2**30 - 1
UNUSABLE_PASSWORD = "!"  # noqa: S105 - the hash of no password, as in /etc/shadow


def normalize_email(email: str) -> str:
    """For comparison only. Mail is sent to the address as the user typed it: two addresses with the
    same normalized form may belong to different people."""
    return email.casefold()


def is_same_mailbox(email: str, other: str) -> bool:
    """Whether two addresses differ in case at most. Not compared as normalized: strasse@ and
    straße@ may belong to different people."""
    return email.lower() == other.lower()


def new_token_version() -> int:
    """Random, so that it never repeats: after a restore, a new user may get the id of a lost one,
    and that user's tokens must not be valid for the new user."""
    return secrets.randbelow(MAX_TOKEN_VERSION + 1)


class User(Base):
    __tablename__ = "users"
    # Ids are never reused, so that a new user does not inherit the tokens of a deleted one. SQLite
    # needs AUTOINCREMENT for that.
    __table_args__ = (
        Index(
            "ix_users_administrators",
            "is_admin",
            postgresql_where=text("is_admin"),
            # As SQLAlchemy writes it in queries. Otherwise SQLite does not use the index.
            sqlite_where=text("is_admin = 1"),
        ),
        {"sqlite_autoincrement": True},
    )

    id: Mapped[int] = mapped_column(
        BigInteger().with_variant(Integer, "sqlite"), Identity(), primary_key=True
    )
    username: Mapped[str] = mapped_column(String(64))
    # NFKC and case folded. Its unique index decides between simultaneous registrations.
    username_folded: Mapped[str] = mapped_column(String(64), unique=True)
    # PERSON or SERVICE. A service account has no password: its programs log in with API keys.
    kind: Mapped[str] = mapped_column(String(10), default=PERSON, server_default=PERSON)
    email: Mapped[str | None] = mapped_column(String(254))
    # For lookups. Several users may have the same address.
    email_folded: Mapped[str | None] = mapped_column(String(254), index=True)
    # When the user used a code that was sent there.
    email_verified_at: Mapped[datetime | None]
    password_hash: Mapped[str] = mapped_column(String(255))
    is_enabled: Mapped[bool] = mapped_column(default=True)
    is_admin: Mapped[bool]
    # The user's other scopes, separated by spaces (RFC 6749, 3.3).
    scopes: Mapped[str] = mapped_column(widened(500), default="", server_default="")
    # Part of every token. A new version revokes all tokens with the old one.
    token_version: Mapped[int] = mapped_column("token_epoch", default=new_token_version)
    created_at: Mapped[datetime]

    @validates("email")
    def _update_email_columns(self, _: str, email: str | None) -> str | None:
        self.email_folded = normalize_email(email) if email else None
        if not (self.email and email and is_same_mailbox(self.email, email)):
            self.email_verified_at = None
        return email

    @property
    def email_verified(self) -> bool:
        return self.email_verified_at is not None

    def granted_scopes(self) -> set[str]:
        """All scopes that tokens of this user can have."""
        return {*self.scopes.split(), *(["admin"] if self.is_admin else [])}
