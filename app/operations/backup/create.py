"""Creates a backup while the service runs."""

import asyncio
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO, NamedTuple, cast

from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncSession

from app import __version__
from app.context import RequestContext
from app.database import migrations
from app.database.engine import Database, begin_write
from app.database.version_table import SchemaError
from app.errors import ApiError
from app.operations.backup import encryption, postgres_programs, sqlite_files
from app.operations.backup.errors import BackupError
from app.operations.backup.new_file import NewFile, exists_error
from app.security.encrypted_columns import find_encrypted_columns
from app.security.encryption import ENCRYPTED_PREFIX
from app.services import build_services
from app.settings import Settings
from app.tables import metadata
from app.tokens.signing_keys.models import StoredKey

_IS_ENCRYPTED = "SELECT 1 FROM {table} WHERE {column} LIKE :prefix LIMIT 1"


class Summary(NamedTuple):
    """What a new backup has."""

    users: int
    revision: str
    needs_secret_key: bool
    is_noted: bool  # in the audit log: as the last entry of the backup itself
    schema: str  # PostgreSQL's
    server_version: int


def create(
    settings: Settings,
    path: Path | None,
    passphrase: str | None,
    *,
    output: BinaryIO,
    overwrite: bool = False,
) -> Summary:
    """Back up the configured database to a file, or without `path` to `output`. With a passphrase,
    the backup is encrypted. Raises BackupError and SchemaError."""
    database = database_path(settings)
    if database and not database.is_file():
        raise BackupError(f"There is no database {database}.")
    if path is not None:
        _check_target(path, database, overwrite=overwrite)
    with _destination(path, output, overwrite=overwrite) as (target, new):
        summary = asyncio.run(_describe(settings))
        if database is None:
            _dump(settings, summary, target, passphrase)
        elif new and passphrase is None:
            sqlite_files.copy(database, new.partial_path, new.file.fileno())
        else:
            # Beside the database, where its content is anyway.
            with NewFile(database, suffix=".copying") as copy:
                descriptor = copy.file.fileno()
                sqlite_files.copy(database, copy.partial_path, descriptor, unnamed=True)
                _write(copy.file, target, passphrase)
    return summary


def database_path(settings: Settings) -> Path | None:
    """The SQLite file, without symbolic links, or None with PostgreSQL."""
    scheme, _, path = settings.database_url.partition(":///")
    return Path(path).resolve() if scheme.startswith("sqlite") else None


def _check_target(path: Path, database: Path | None, *, overwrite: bool) -> None:
    if database:
        files = {database, *(Path(f"{database}{end}") for end in sqlite_files.COMPANIONS)}
        if path.resolve() in files:
            raise BackupError(f"{path} is the database itself. Choose another name.")
    if path.is_dir():
        raise BackupError(f"{path} is a directory. Name a file.")
    if path.exists() and not overwrite:
        raise exists_error(path)


@contextmanager
def _destination(
    path: Path | None, output: BinaryIO, *, overwrite: bool
) -> Iterator[tuple[BinaryIO, NewFile | None]]:
    """Where the backup is written: standard output, or a new file that is kept at the end."""
    if path is None:
        yield output, None
        output.flush()
        return
    with NewFile(path) as new:
        yield new.file, new
        new.keep(overwrite=overwrite)


def _write(source: BinaryIO, target: BinaryIO, passphrase: str | None) -> None:
    source.seek(0)
    if passphrase is None:
        shutil.copyfileobj(source, target)
    else:
        encryption.encrypt(source, target, passphrase)


def _dump(settings: Settings, summary: Summary, target: BinaryIO, passphrase: str | None) -> None:
    process = postgres_programs.start_dump(
        settings.database_url, summary.schema, summary.server_version
    )
    assert process.stdout
    try:
        if passphrase is None:
            shutil.copyfileobj(process.stdout, target)
        else:
            encryption.encrypt(cast("BinaryIO", process.stdout), target, passphrase)
    except BaseException:
        process.kill()
        process.communicate()
        raise
    postgres_programs.finish_dump(process)


async def _describe(settings: Settings) -> Summary:
    """Reads what the backup will have, and adds an entry to the audit log. The backup must succeed
    even if the database is full or read-only, so it is made without the entry too."""
    database = Database(settings)
    try:
        revision = await migrations.find_revision(database.engine)
        if revision is None:
            raise SchemaError("The database has no tables yet. There is nothing to back up.")
        async with database.session() as session:
            users = await session.scalar(text("SELECT count(*) FROM users"))
            summary = Summary(
                users=users or 0,
                revision=revision,
                needs_secret_key=await _has_encrypted_secrets(session, revision),
                is_noted=False,
                schema="",
                server_version=0,
            )
            if database.engine.dialect.name == "postgresql":
                schema, version = (
                    await session.execute(
                        text("SELECT current_schema(), current_setting('server_version_num')")
                    )
                ).one()
                summary = summary._replace(schema=schema, server_version=int(version) // 10_000)
        return summary._replace(is_noted=await _note(settings, database, summary))
    finally:
        await database.close()


async def _has_encrypted_secrets(session: AsyncSession, revision: str) -> bool:
    for _, column, *_ in find_encrypted_columns(metadata):
        # Older schemas lack some tables. The signing keys are in all of them.
        if revision != migrations.HEAD and column.table.name != StoredKey.__tablename__:
            continue
        query = text(_IS_ENCRYPTED.format(table=column.table.name, column=column.name))
        if await session.scalar(query, {"prefix": f"{ENCRYPTED_PREFIX}%"}):
            return True
    return False


async def _note(settings: Settings, database: Database, summary: Summary) -> bool:
    if summary.revision != migrations.HEAD:
        return False
    services = build_services(settings)
    try:
        async with database.session() as session:
            context = RequestContext(session, datetime.now(UTC), user_agent="hourpass")
            await begin_write(session)
            await services.events.publish(
                context,
                "service.backup",
                None,
                version=__version__,
                schema=summary.revision,
                users=str(summary.users),
            )
            await session.commit()
    except (ApiError, SQLAlchemyError):
        return False
    finally:
        services.close()
    return True
