"""What the checks look at: the settings and the database, as far as they can be used."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path

from app.context import RequestContext
from app.database import migrations
from app.database.engine import Database
from app.services import Services, build_services
from app.settings import InvalidSettingsError, Settings, load_settings


class NotCheckedError(Exception):
    """A check cannot run, for the reason in the text. An earlier check has reported the cause."""


class System:
    """Reading an attribute that is not available raises NotCheckedError, so checks need not ask."""

    def __init__(self) -> None:
        self.problems: list[str] = []  # of the settings
        self.warnings: list[str] = []
        self._settings: Settings | None = None
        self._database: Database | None = None
        self._services: Services | None = None
        self._is_usable = False
        try:
            self._settings, self.warnings = load_settings()
        except InvalidSettingsError as error:
            self.problems = str(error).splitlines()

    @property
    def settings(self) -> Settings:
        if self._settings is None:
            raise NotCheckedError("the settings are not valid")
        return self._settings

    @property
    def sqlite_path(self) -> Path | None:
        """Of the database file, without symbolic links, as SQLite has it."""
        url = self.settings.database_url
        return Path(url.partition(":///")[2]).resolve() if url.startswith("sqlite") else None

    @property
    def database(self) -> Database:
        _ = self.settings  # without valid ones, they are the reason
        if self._database is None or not self._is_usable:
            raise NotCheckedError("the database cannot be used")
        return self._database

    @property
    def services(self) -> Services:
        if self._services is None:
            self._services = build_services(self.settings)
        return self._services

    async def connect(self) -> Database:
        """Raises StartupError if the database cannot be used, or is not at HEAD."""
        self._database = self._database or Database(self.settings)
        await migrations.check(self._database.engine)
        self._is_usable = True
        return self._database

    @asynccontextmanager
    async def context(self) -> AsyncIterator[RequestContext]:
        """For a check of its own: one that fails must not be in the way of the others."""
        async with self.database.session() as session:
            yield RequestContext(session, datetime.now(UTC), user_agent="hourpass")

    async def close(self) -> None:
        if self._services:
            self._services.close()
        if self._database:
            await self._database.close()
