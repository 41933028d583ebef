"""Imports every models.py, so that Alembic sees all tables."""

from app.audit import models as audit
from app.codes import models as codes
from app.database import Base
from app.first_admin import models as first_admin
from app.housekeeping import models as housekeeping
from app.mail import models as mail
from app.revocations import models as revocations
from app.second_factors import models as second_factors
from app.sessions import models as sessions
from app.throttle import models as throttle
from app.tokens import models as tokens
from app.users import models as users

__all__ = [
    "audit",
    "codes",
    "first_admin",
    "housekeeping",
    "mail",
    "metadata",
    "revocations",
    "second_factors",
    "sessions",
    "throttle",
    "tokens",
    "users",
]

metadata = Base.metadata
