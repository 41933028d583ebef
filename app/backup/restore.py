"""Restores a backup, and makes the database safe before it gets its name.

What was revoked since the backup must not be valid again. The former database tells what that was,
if there is one that can be read. Otherwise the operator decides.
"""

import asyncio
import os
import shutil
import sqlite3
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, closing, contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO

from pydantic import TypeAdapter
from sqlalchemy import func, select, text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncSession

from app.audit.models import Entry
from app.backup import carry_over, encryption, postgres_programs, sqlite_files
from app.backup.carry_over import Audited, CarryOver, Changes
from app.backup.create import database_path
from app.backup.errors import BackupError
from app.backup.new_file import NewFile
from app.backup.revoke_everything import revoke_everything_within
from app.configuration.types import DatabaseUrl
from app.context import RequestContext
from app.database import migrations, sqlite_driver
from app.database.engine import Database, begin_write
from app.database.timelines import skip_ids
from app.database.version_table import FORMER_VERSION_TABLE, VERSION_TABLE, SchemaError
from app.errors import ApiError, StartupError
from app.security.encryption import ENCRYPTED_PREFIX, Encryptor
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
    """`replace`: a SQLite database that has users. `end_everything`: revoke all that was issued
    before. `keep_everything`: assume that nothing was revoked since the backup, if that cannot be
    known. `former_url`: the database to compare with, by default the file that is replaced."""

    replace: bool = False
    end_everything: bool = False
    keep_everything: bool = False
    check_only: bool = False
    former_url: str | None = None


@dataclass(frozen=True, slots=True)
class Restored:
    revision: str = ""
    users: int = 0
    made_at: datetime | None = None  # of the last entry of its audit log
    encrypted_keys: int = 0
    former_file: Path | None = None
    changes: Changes | None = None
    not_compared: str | None = None  # why not
    revoked_keys: Sequence[str] | None = None  # by `end_everything`
    audited: Sequence[Audited] = field(default_factory=list)
    not_listed: int = 0


def restore(
    settings: Settings, source: BinaryIO, ask_passphrase: Callable[[], str], options: Options
) -> Restored:
    """Restore a backup into the configured database. `ask_passphrase` is called if the backup is
    encrypted. Raises BackupError and SchemaError, and then has changed nothing."""
    path = database_path(settings)
    if path is None:
        return _restore_postgres(settings, source, ask_passphrase, options)
    return _restore_sqlite(settings, path, source, ask_passphrase, options)


def _restore_sqlite(
    settings: Settings,
    path: Path,
    source: BinaryIO,
    ask_passphrase: Callable[[], str],
    options: Options,
) -> Restored:
    if not options.check_only:
        _check_former_file(path, options)
    with NewFile(path, suffix=".restoring") as new, _without_companions(new.partial_path):
        restored = new.partial_path
        _write_payload(source, new.file, ask_passphrase)
        new.file.flush()
        _require_kind(new.file, sqlite_files.SQLITE_MAGIC)
        sqlite_files.check(restored)
        found = _inspect_file(restored)
        _require_usable(settings, *found)
        temporary = _with_url(settings, f"sqlite:///{restored}")
        if options.check_only:
            return _summarize(temporary, *found)
        migrations.upgrade(temporary)
        former_url = options.former_url or f"sqlite:///{path}"
        result = asyncio.run(_make_safe(temporary, former_url, options))
        for file in (restored, path):
            if sqlite_files.has_header(file) and not sqlite_files.close_all(file):
                raise _in_use_error(file)
        os.fsync(new.file.fileno())
        former_file = sqlite_files.replace(path, restored, datetime.now(UTC))
    return replace(result, former_file=former_file)


@contextmanager
def _without_companions(path: Path) -> Iterator[None]:
    """Remove the files that SQLite keeps beside a database: those of a run that was killed, and
    those of this one if it fails."""

    def remove() -> None:
        for end in sqlite_files.COMPANIONS:
            path.with_name(path.name + end).unlink(missing_ok=True)

    remove()
    try:
        yield
    finally:
        remove()


def _check_former_file(path: Path, options: Options) -> None:
    if not path.parent.is_dir():
        raise BackupError(f"There is no directory {path.parent}.")
    _require_unused(path)
    if sqlite_files.has_header(path) and sqlite_driver.is_foreign(path):
        raise BackupError(
            f"{path} belongs to another application. Name another file in DATABASE_URL."
        )
    if not path.exists() or options.replace:
        return
    try:
        has_users = sqlite_files.has_users(path)
    except sqlite3.Error:
        raise BackupError(
            f"{path} exists and cannot be read. Use --replace, which keeps it under another name."
        ) from None
    if has_users:
        raise BackupError(
            f"{path} exists and has users. Use --replace, which keeps it under another name."
        )


def _require_unused(path: Path) -> None:
    if sqlite_files.has_header(path) and sqlite_files.is_in_use(path):
        raise _in_use_error(path)


def _in_use_error(path: Path) -> BackupError:
    return BackupError(f"{path} is in use. Stop the service on every host, then try again.")


def _restore_postgres(
    settings: Settings, source: BinaryIO, ask_passphrase: Callable[[], str], options: Options
) -> Restored:
    with tempfile.TemporaryFile() as file:
        _write_payload(source, file, ask_passphrase)
        _require_kind(file, postgres_programs.DUMP_MAGIC)
        contents = postgres_programs.list_contents(file)
        found = _inspect_dump(file)
        _require_usable(settings, *found)
        if options.check_only:
            revision, keys = found
            return Restored(revision=revision, encrypted_keys=_encrypted(keys))
        asyncio.run(_check_destination(settings, postgres_programs.schema_of(contents)))
        if options.former_url is None:
            _require_decision("PREVIOUS_DATABASE_URL names no former database", options)
        postgres_programs.restore(settings.database_url, file, contents)
    try:
        migrations.upgrade(settings)
        return asyncio.run(_make_safe(settings, options.former_url, options))
    except StartupError as error:
        raise BackupError(
            f"{error} The database was restored, and is not safe yet: run `hourpass migrate` and "
            "`hourpass after-restore`, or empty it and try again."
        ) from error


async def _check_destination(settings: Settings, schema: str | None) -> None:
    """An empty database, whose first schema is that of the dump. Raises BackupError."""
    database = Database(settings)
    try:
        if await migrations.find_revision(database.engine) is not None:
            raise BackupError(
                "The database has tables of Hourpass. Create an empty one, name it in "
                "DATABASE_URL, and name this one in PREVIOUS_DATABASE_URL."
            )
        async with database.session() as session:
            current = await session.scalar(text("SELECT current_schema()"))
            if schema is not None and current != schema:
                raise BackupError(
                    f"The backup has the schema {schema}, and new tables go to {current}. Create "
                    f"the schema {schema}, and add ?options=-csearch_path%3D{schema} to "
                    "DATABASE_URL."
                )
    finally:
        await database.close()


def _write_payload(source: BinaryIO, target: BinaryIO, ask_passphrase: Callable[[], str]) -> None:
    head = encryption.read_exactly(source, len(encryption.MAGIC))
    if head == encryption.MAGIC:
        encryption.decrypt(source, target, ask_passphrase())
    else:
        target.write(head)
        shutil.copyfileobj(source, target)


def _require_kind(payload: BinaryIO, magic: bytes) -> None:
    payload.seek(0)
    head = payload.read(16)
    if head.startswith(magic):
        return
    for name, other in (
        ("SQLite", sqlite_files.SQLITE_MAGIC),
        ("PostgreSQL", postgres_programs.DUMP_MAGIC),
    ):
        if head.startswith(other):
            raise BackupError(f"This is a backup of {name}, and DATABASE_URL names another kind.")
    raise BackupError("This is not a backup.")


def _inspect_file(path: Path) -> tuple[str, list[str]]:
    """The revision, and the stored signing keys."""
    with closing(sqlite3.connect(path)) as connection:
        names = {name for (name,) in connection.execute("SELECT name FROM sqlite_master")}
        if not {"users", "signing_keys"} <= names:
            raise BackupError("This is not a backup of Hourpass.")
        table = VERSION_TABLE if VERSION_TABLE in names else FORMER_VERSION_TABLE
        row = connection.execute(f"SELECT version_num FROM {table}").fetchone()  # noqa: S608 - ours
        keys = connection.execute("SELECT private_key FROM signing_keys").fetchall()
    return (row[0] if row else ""), [key for (key,) in keys]


def _inspect_dump(file: BinaryIO) -> tuple[str, list[str]]:
    rows = postgres_programs.read_rows(file, VERSION_TABLE)
    rows = rows or postgres_programs.read_rows(file, FORMER_VERSION_TABLE)
    if not rows:
        raise BackupError("This is not a backup of Hourpass.")
    keys = postgres_programs.read_rows(file, "signing_keys")
    return rows[0]["version_num"], [row["private_key"] for row in keys]


def _require_usable(settings: Settings, revision: str, keys: Sequence[str]) -> None:
    """Raises SchemaError if it is of a newer version, and DecryptionError without the SECRET_KEY
    that it needs."""
    if not migrations.is_known(revision):
        raise SchemaError(
            f"The backup is ahead of this version (at {revision}, which is unknown here). Restore "
            "it with the version that made it, or a newer one."
        )
    encryptor = Encryptor(settings, "signing keys")
    for key in keys:
        encryptor.decrypt(key)


def _encrypted(keys: Sequence[str]) -> int:
    return sum(key.startswith(ENCRYPTED_PREFIX) for key in keys)


def _with_url(settings: Settings, url: str) -> Settings:
    """Raises BackupError."""
    try:
        checked = TypeAdapter(DatabaseUrl).validate_python(url)
    except ValueError:
        raise BackupError(
            "PREVIOUS_DATABASE_URL must begin with sqlite:/// or postgresql://."
        ) from None
    return settings.model_copy(update={"database_url": checked})


def _summarize(settings: Settings, revision: str, keys: Sequence[str]) -> Restored:
    """What a backup has, of which the file is a copy to be thrown away."""
    migrations.upgrade(settings)

    async def read() -> Restored:
        async with _opened(settings) as session:
            users = await session.scalar(text("SELECT count(*) FROM users"))
            made_at = await session.scalar(select(func.max(Entry.at)))
        return Restored(revision, users or 0, made_at, _encrypted(keys))

    return asyncio.run(read())


@asynccontextmanager
async def _opened(settings: Settings) -> AsyncIterator[AsyncSession]:
    """Raises SchemaError unless the database stands at HEAD."""
    database = Database(settings)
    try:
        await migrations.check(database.engine)
        async with database.session() as session:
            yield session
    finally:
        await database.close()


async def _make_safe(settings: Settings, former_url: str | None, options: Options) -> Restored:
    """One transaction."""
    services = build_services(settings)
    try:
        async with _opened(settings) as session:
            await _require_alone(session, "The database")
            finishing = _Finishing(services, RequestContext(session, datetime.now(UTC)), options)
            finishing.context.user_agent = "hourpass"
            if former_url is None:
                return await finishing.run(None, "There is no former database")
            former_settings = _with_url(settings, former_url)
            former_path = database_path(former_settings)
            if former_path and not former_path.is_file():
                return await finishing.run(None, f"There is no former database {former_path}")
            if former_path and not sqlite_files.has_header(former_path):
                return await finishing.run(None, f"{former_path} is no database")
            if former_path:
                _require_unused(former_path)
            try:
                async with _opened(former_settings) as former:
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
    services: Services
    context: RequestContext
    options: Options

    async def run(self, former: AsyncSession | None, not_compared: str | None) -> Restored:
        """Raises BackupError if nothing tells what was revoked since, and the operator did not
        decide."""
        session = self.context.session
        if former and not await carry_over.continues(former, session):
            not_compared = "The former database is not what became of the one that was backed up"
        if not_compared:
            _require_decision(not_compared, self.options)
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
            audited, not_listed = await carry_over.list_changes(former, last_id, MAX_LISTED_CHANGES)
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


def _require_decision(reason: str, options: Options) -> None:
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
