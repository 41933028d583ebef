from datetime import datetime

from sqlalchemy import String, Text
from sqlalchemy.orm import Mapped, mapped_column

from app.database.base import Base


class StoredKey(Base):
    """A signing key, made by the service itself and shared by every worker and host."""

    __tablename__ = "signing_keys"

    # Numbered by whoever makes one, as the highest so far plus one. Of several workers that make
    # one at once exactly one can store the next number; the others then read it.
    generation: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    kid: Mapped[str] = mapped_column(String(64), unique=True)
    algorithm: Mapped[str] = mapped_column(String(16))
    # PKCS #8 in PEM, or the same encrypted under SECRET_KEY (keys.py)
    private_key: Mapped[str] = mapped_column(Text)
    created_at: Mapped[datetime]
    # Published from the start, signing from then on, until the next generation does.
    activates_at: Mapped[datetime]
