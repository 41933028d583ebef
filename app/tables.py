"""Imports every models.py, so that Alembic sees all tables."""

from app.database import Base
from app.tokens import models as tokens
from app.users import models as users

__all__ = ["metadata", "tokens", "users"]

metadata = Base.metadata
