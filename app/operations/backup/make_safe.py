"""Makes a restored database safe, in one transaction, before a service may use it.

What was revoked since the backup must not be valid again. The former database tells what that was,
if there is one that can be read. Otherwise the operator decides.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

from pydantic import TypeAdapter
from sqlalchemy import func, select, text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncSession

from app.audit.models import Entry
from app.configuration.types import DatabaseUrl
from app.context import RequestContext
from app.database import migrations
from app.database.engine import Database, begin_write
from app.database.timelines import skip_ids
from app.database.version_table import SchemaError
from app.errors import ApiError
from app.operations.backup import audit_comparison, sqlite_files
from app.operations.backup.audit_comparison import AuditedChange
from app.operations.backup.carry_over import CarryOver, Changes
from app.operations.backup.create import database_path
from app.operations.backup.errors import BackupError
from app.operations.backup.revoke_everything import revoke_everything_within
from app.services import Services, build_services
from app.settings import Settings
from app.users.models import User

MAX_LISTED_CHANGES = 200

# How often, and how many seconds apart, other connections are counted. Our own may be closing.
_ATTEMPTS, _PAUSE = 10, 0.2
_OTHER_CONNECTIONS = text(
    "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND"
    " usename = current_user AND backend_type = 'client backend' AND pid <> pg_backend_pid()"
)


@dataclass(frozen=True, slots=True)
class Options:
    replace: bool = False  # a SQLite database that has users
    end_everything: bool = False  # revoke all that was issued before
    keep_everything: bool = False  # if it is not known what was revoked since the backup
    check_only: bool = False
    former_url: str | None = None  # to compare with. With SQLite, by default the replaced file


@dataclass(frozen=True, slots=True)
class Restored:
    """What was restored, or with `check_only` would be."""

    revision: str = ""
    users: int = 0
    made_at: datetime | None = None  # of the last entry of its audit log
    encrypted_keys: int = 0
    former_file: Path | None = None
    changes: Changes | None = None
    not_compared: str | None = None  # why not
    revoked_keys: Sequence[str] | None = None  # by `end_everything`
    audited: Sequence[AuditedChange] = field(default_factory=list)
    not_listed: int = 0


async def make_safe(settings: Settings, former_url: str | None, options: Options) -> Restored:
    """Revoke what must not be valid again, in one transaction. Raises BackupError, SchemaError."""
    services = build_services(settings)
    try:
        async with opened(settings) as session:
            await _require_alone(session, "The database")
            finishing = _Finishing(services, RequestContext(session, datetime.now(UTC)), options)
            finishing.context.user_agent = "hourpass"
            if former_url is None:
                return await finishing.run(None, "There is no former database")
            former_settings = with_url(settings, former_url)
            former_path = database_path(former_settings)
            if former_path and not former_path.is_file():
                return await finishing.run(None, f"There is no former database {former_path}")
            if former_path and not sqlite_files.has_header(former_path):
                return await finishing.run(None, f"{former_path} is no database")
            if former_path:
                sqlite_files.require_unused(former_path)
            try:
                async with opened(former_settings) as former:
                    await _require_alone(former, "The former database")
                    return await finishing.run(former, None)
            except SchemaError as error:
                problem = str(error).rstrip(".")
            except (ApiError, SQLAlchemyError):
                problem = "It cannot be read to its end"
            await session.rollback()
            session.expunge_all()
            return await finishing.run(None, f"{problem} (the former database)")
    finally:
        services.close()


@dataclass(frozen=True, slots=True)
class _Finishing:
    """The changes of that transaction, after the former database was opened or not."""

    services: Services
    context: RequestContext
    options: Options

    async def run(self, former: AsyncSession | None, not_compared: str | None) -> Restored:
        """Raises BackupError if it is not known what was revoked since the backup, and the operator
        did not decide."""
        session = self.context.session
        if former and not await audit_comparison.is_later_state(former, session):
            not_compared = "The former database is not a later state of the one that was backed up"
        if not_compared:
            require_decision(not_compared, self.options)
            former = None
        result = Restored(
            revision=migrations.HEAD,
            users=await session.scalar(select(func.count()).select_from(User)) or 0,
            made_at=await session.scalar(select(func.max(Entry.at))),
            not_compared=not_compared,
        )
        last_id = await session.scalar(select(func.max(Entry.id))) or 0
        await begin_write(session)
        if former:
            changes = await CarryOver(self.services, self.context, former).run()
            audited, not_listed = await audit_comparison.list_changes(
                former, last_id, MAX_LISTED_CHANGES
            )
            result = replace(result, changes=changes, audited=audited, not_listed=not_listed)
        if self.options.end_everything:
            kids = await revoke_everything_within(self.services, self.context)
            result = replace(result, revoked_keys=kids)
        else:
            await skip_ids(session)
            await self.services.revocations.rename_feed(self.context)
        await self.services.events.publish(
            self.context,
            "service.restore",
            None,
            backup=f"{result.made_at:%F %T} UTC" if result.made_at else "",
            compared="no" if not_compared else "yes",
            ended="everything" if self.options.end_everything else "",
        )
        await session.commit()
        return result


def require_decision(reason: str, options: Options) -> None:
    if not options.end_everything and not options.keep_everything:
        raise BackupError(
            f"It is not known what was revoked since the backup. {reason}. Use --end-everything to "
            "revoke everything that was issued before, or --keep-everything if nothing was revoked "
            "since."
        )


async def _require_alone(session: AsyncSession, name: str) -> None:
    """Raises BackupError if a service uses this PostgreSQL database."""
    if session.get_bind().dialect.name == "sqlite":
        return
    for _ in range(_ATTEMPTS):
        others = await session.scalar(_OTHER_CONNECTIONS)
        await session.rollback()
        if not others:
            return
        await asyncio.sleep(_PAUSE)
    raise BackupError(
        f"{name} is in use by {others} other connections of this role. Stop the service on every "
        "host, and a pooler in between."
    )


@asynccontextmanager
async def opened(settings: Settings) -> AsyncIterator[AsyncSession]:
    """A session. Raises SchemaError unless the database is at HEAD."""
    database = Database(settings)
    try:
        await migrations.check(database.engine)
        async with database.session() as session:
            yield session
    finally:
        await database.close()


def with_url(settings: Settings, url: str) -> Settings:
    """Raises BackupError if the URL is of another kind of database."""
    try:
        checked = TypeAdapter(DatabaseUrl).validate_python(url)
    except ValueError:
        raise BackupError(
            "PREVIOUS_DATABASE_URL must begin with sqlite:/// or postgresql://."
        ) from None
    return settings.model_copy(update={"database_url": checked})
