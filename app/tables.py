"""Imports all tables, for Alembic."""

from app.accounts.first_admin import models as first_admin
from app.audit import models as audit
from app.credentials.api_keys import models as api_keys
from app.credentials.second_factors import models as second_factors
from app.credentials.sessions import models as sessions
from app.database import job_lock, timelines
from app.database.base import Base
from app.groups import models as groups
from app.mail import models as mail
from app.maintenance.secret_rotation import models as secret_rotation
from app.security.one_time_codes import models as one_time_codes
from app.security.rate_limits import models as rate_limits
from app.tokens.revocations import models as revocations
from app.tokens.signing_keys import models as signing_keys
from app.users import models as users
from app.webhooks import models as webhooks

__all__ = [
    "api_keys",
    "audit",
    "first_admin",
    "groups",
    "job_lock",
    "mail",
    "metadata",
    "one_time_codes",
    "rate_limits",
    "revocations",
    "second_factors",
    "secret_rotation",
    "sessions",
    "signing_keys",
    "timelines",
    "users",
    "webhooks",
]

metadata = Base.metadata
