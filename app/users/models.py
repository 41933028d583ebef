import secrets
from datetime import datetime

from sqlalchemy import BigInteger, Identity, Index, Integer, String, text
from sqlalchemy.orm import Mapped, mapped_column, validates

from app.database.base import Base

MAX_TOKEN_VERSION = 2**31 - 1
UNUSABLE_PASSWORD = "!"  # noqa: S105 - the hash of none, as in /etc/shadow


def normalize_email(email: str) -> str:
    """The form in which addresses are compared. Mail goes to the one that is stored as it was
    typed: of two that fold alike, the other one's owner must not get it."""
    return email.casefold()


def new_token_version() -> int:
    """Random, so that no two users or histories of a database share one: an id that was given out
    again after a restore must not accept the tokens of the user who had it before."""
    return secrets.randbelow(MAX_TOKEN_VERSION + 1)


class User(Base):
    __tablename__ = "users"
    # A new user must not inherit the tokens of a removed one, so no id is given out twice.
    # SQLite needs to be told; PostgreSQL's identity never goes back.
    __table_args__ = (
        Index(
            "ix_users_administrators",
            "is_admin",
            postgresql_where=text("is_admin"),
            sqlite_where=text("is_admin = 1"),  # as SQLAlchemy asks there; else it is not used
        ),
        {"sqlite_autoincrement": True},
    )

    id: Mapped[int] = mapped_column(
        BigInteger().with_variant(Integer, "sqlite"), Identity(), primary_key=True
    )
    username: Mapped[str] = mapped_column(String(64))
    # NFKC and case folded; its uniqueness is what decides between simultaneous registrations.
    username_folded: Mapped[str] = mapped_column(String(64), unique=True)
    email: Mapped[str | None] = mapped_column(String(254))
    # As it is looked for. Several users may have the same one.
    email_folded: Mapped[str | None] = mapped_column(String(254), index=True)
    # When a code that was sent there came back.
    email_verified_at: Mapped[datetime | None]
    password_hash: Mapped[str] = mapped_column(String(255))
    is_enabled: Mapped[bool] = mapped_column(default=True)
    is_admin: Mapped[bool]
    # What else its tokens may be used for, as RFC 6749, 3.3 writes it: words between spaces.
    scopes: Mapped[str] = mapped_column(String(500), default="", server_default="")
    # Written into every token. Another number revokes all tokens that carry this one.
    token_version: Mapped[int] = mapped_column("token_epoch", default=new_token_version)
    created_at: Mapped[datetime]

    @validates("email")
    def _follow(self, _: str, email: str | None) -> str | None:
        self.email_folded = normalize_email(email) if email else None
        self.email_verified_at = None
        return email

    @property
    def email_verified(self) -> bool:
        return self.email_verified_at is not None

    def granted_scopes(self) -> set[str]:
        """Every scope that this user's tokens can have."""
        return {*self.scopes.split(), *(["admin"] if self.is_admin else [])}
