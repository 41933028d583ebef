"""The settings and the clock of apps under test."""

from datetime import UTC, datetime, timedelta

from pydantic import BaseModel

from app.settings import Settings
from tests.support.users import ARTHUR

CHEAP_HASHING = {"ARGON2_MEMORY_KIB": "8", "ARGON2_PASSES": "1"}
ARTHUR_ADMINISTERS = {
    "first_admin_username": ARTHUR["username"],
    "first_admin_password": ARTHUR["password"],
}


class Clock:
    """The time as the app under test sees it."""

    def __init__(self) -> None:
        self.now = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now

    def advance(self, span: timedelta) -> None:
        self.now += span


def utc_now() -> datetime:
    """The clock of a served process."""
    return datetime.now(UTC)


def make_settings(database_url: str, **changes: object) -> Settings:
    """From these values alone. `Settings(...)` would read the environment and files too, which
    takes as long as starting the app, and so would finding out the number of hashing threads."""
    cheap_hashing = {name.lower(): value for name, value in CHEAP_HASHING.items()}
    values = {"database_url": database_url, **cheap_hashing, "hashing_threads": 2, **changes}
    settings = Settings.__new__(Settings)
    BaseModel.__init__(settings, **values)
    return settings
