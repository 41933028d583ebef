"""Restores a backup. A SQLite file gets its name only after make_safe() has committed."""

import asyncio
import os
import sqlite3
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO

from sqlalchemy import func, select, text

from app.audit.models import Entry
from app.database import migrations, sqlite_driver
from app.database.engine import Database
from app.errors import StartupError
from app.operations.backup import content, postgres_programs, sqlite_files
from app.operations.backup.content import Content
from app.operations.backup.create import database_path
from app.operations.backup.errors import BackupError
from app.operations.backup.make_safe import (
    Options,
    Restored,
    make_safe,
    opened,
    require_decision,
    with_url,
)
from app.operations.backup.new_file import NewFile
from app.settings import Settings
from app.users.models import User


def restore(
    settings: Settings, source: BinaryIO, ask_passphrase: Callable[[], str], options: Options
) -> Restored:
    """Restore a backup into the configured database. `ask_passphrase` is called if the backup is
    encrypted.

    Raises BackupError and SchemaError. Nothing was changed then, unless the error says that the
    database was restored and is not safe yet.
    """
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
        content.write_decrypted(source, new.file, ask_passphrase)
        new.file.flush()
        content.require_kind(new.file, sqlite_files.SQLITE_MAGIC)
        sqlite_files.check(restored)
        found = content.read_sqlite(restored)
        found.require_usable(settings)
        temporary = with_url(settings, f"sqlite:///{restored}")
        migrations.upgrade(temporary)
        if options.check_only:
            return asyncio.run(_summarize(temporary, found))
        former_url = options.former_url or f"sqlite:///{path}"
        result = asyncio.run(make_safe(temporary, former_url, options))
        for file in (restored, path):
            if sqlite_files.has_header(file) and not sqlite_files.close_all(file):
                raise sqlite_files.in_use_error(file)
        os.fsync(new.file.fileno())
        former_file = sqlite_files.replace(path, restored, datetime.now(UTC))
    return replace(result, former_file=former_file)


def _check_former_file(path: Path, options: Options) -> None:
    if not path.parent.is_dir():
        raise BackupError(f"There is no directory {path.parent}.")
    sqlite_files.require_unused(path)
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


def _restore_postgres(
    settings: Settings, source: BinaryIO, ask_passphrase: Callable[[], str], options: Options
) -> Restored:
    with tempfile.TemporaryFile() as file:
        content.write_decrypted(source, file, ask_passphrase)
        content.require_kind(file, postgres_programs.DUMP_MAGIC)
        entries = postgres_programs.list_entries(file)
        found = content.read_dump(file)
        found.require_usable(settings)
        if options.check_only:
            return Restored(revision=found.revision, encrypted_keys=found.encrypted_keys)
        asyncio.run(_check_destination(settings, postgres_programs.schema_of(entries)))
        if options.former_url is None:
            require_decision("PREVIOUS_DATABASE_URL names no former database", options)
        postgres_programs.restore(settings.database_url, file, entries)
    try:
        migrations.upgrade(settings)
        return asyncio.run(make_safe(settings, options.former_url, options))
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


async def _summarize(settings: Settings, found: Content) -> Restored:
    """`settings` name a migrated copy of the backup."""
    async with opened(settings) as session:
        users = await session.scalar(select(func.count()).select_from(User)) or 0
        made_at = await session.scalar(select(func.max(Entry.at)))
    return Restored(found.revision, users, made_at, found.encrypted_keys)
