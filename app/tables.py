"""Imports every models.py, so that Alembic sees all tables."""

from app.database import Base
from app.housekeeping import models as housekeeping
from app.revocations import models as revocations
from app.second_factors import models as second_factors
from app.sessions import models as sessions
from app.tokens import models as tokens
from app.users import models as users

__all__ = [
    "housekeeping",
    "metadata",
    "revocations",
    "second_factors",
    "sessions",
    "tokens",
    "users",
]

metadata = Base.metadata
