from datetime import datetime

from sqlalchemy import String
from sqlalchemy.orm import Mapped, mapped_column

from app.database.base import Base


class SetupStep(Base):
    """A step that is done once per database. Rows are never deleted."""

    __tablename__ = "setup_steps"

    name: Mapped[str] = mapped_column(String(32), primary_key=True)
    done_at: Mapped[datetime]
