"""The content of a backup: which database it is for, its revision, and its signing keys."""

import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import BinaryIO, NamedTuple

from app.database import migrations
from app.database.version_table import FORMER_VERSION_TABLE, VERSION_TABLE, SchemaError
from app.operations.backup import encryption, postgres_programs, sqlite_files
from app.operations.backup.errors import BackupError
from app.security.encryption import ENCRYPTED_PREFIX, Encryptor
from app.settings import Settings


class Content(NamedTuple):
    """What can be read from a backup before it is restored."""

    revision: str
    signing_keys: list[str]  # as they are stored

    @property
    def encrypted_keys(self) -> int:
        return sum(key.startswith(ENCRYPTED_PREFIX) for key in self.signing_keys)

    def require_usable(self, settings: Settings) -> None:
        """Raises SchemaError if it is of a newer version, and DecryptionError without the
        SECRET_KEY that it needs."""
        if not migrations.is_known(self.revision):
            raise SchemaError(
                f"The backup is ahead of this version (at {self.revision}, which is unknown here). "
                "Restore it with the version that made it, or a newer one."
            )
        encryptor = Encryptor(settings, "signing keys")
        for key in self.signing_keys:
            encryptor.decrypt(key)


def write_decrypted(source: BinaryIO, target: BinaryIO, ask_passphrase: Callable[[], str]) -> None:
    """`ask_passphrase` is called if the backup is encrypted."""
    head = encryption.read_exactly(source, len(encryption.MAGIC))
    if head == encryption.MAGIC:
        encryption.decrypt(source, target, ask_passphrase())
    else:
        target.write(head)
        shutil.copyfileobj(source, target)


def require_kind(file: BinaryIO, magic: bytes) -> None:
    """Raises BackupError if the file does not begin with these bytes."""
    file.seek(0)
    head = file.read(16)
    if head.startswith(magic):
        return
    for name, other in (
        ("SQLite", sqlite_files.SQLITE_MAGIC),
        ("PostgreSQL", postgres_programs.DUMP_MAGIC),
    ):
        if head.startswith(other):
            raise BackupError(f"This is a backup of {name}, and DATABASE_URL names another kind.")
    raise BackupError("This is not a backup.")


def read_sqlite(path: Path) -> Content:
    with closing(sqlite3.connect(path)) as connection:
        names = {name for (name,) in connection.execute("SELECT name FROM sqlite_master")}
        if not {"users", "signing_keys"} <= names:
            raise BackupError("This is not a backup of Hourpass.")
        table = VERSION_TABLE if VERSION_TABLE in names else FORMER_VERSION_TABLE
        row = connection.execute(f"SELECT version_num FROM {table}").fetchone()  # noqa: S608 - ours
        keys = connection.execute("SELECT private_key FROM signing_keys").fetchall()
    return Content(row[0] if row else "", [key for (key,) in keys])


def read_dump(file: BinaryIO) -> Content:
    rows = postgres_programs.read_rows(file, VERSION_TABLE)
    rows = rows or postgres_programs.read_rows(file, FORMER_VERSION_TABLE)
    if not rows:
        raise BackupError("This is not a backup of Hourpass.")
    keys = postgres_programs.read_rows(file, "signing_keys")
    return Content(rows[0]["version_num"], [row["private_key"] for row in keys])
