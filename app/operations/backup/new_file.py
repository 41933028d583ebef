"""A file that gets its name when it is complete."""

import fcntl
import os
import stat
from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

from app.operations.backup.errors import BackupError


class NewFile:
    """Written beside `path` under a name of its own, which `suffix` ends. A process that is killed
    leaves that one behind, and the next one overwrites it. Only its owner can read it.

    On leaving the context, the file is removed unless it was kept.
    """

    def __init__(self, path: Path, *, suffix: str = ".partial") -> None:
        self.path = path
        self.partial_path = path.with_name(path.name + suffix)
        self.file: BinaryIO

    def __enter__(self) -> Self:
        """Raises BackupError."""
        try:
            # Not through a symbolic link, which anyone may have put into a shared directory.
            flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
            descriptor = os.open(self.partial_path, flags, 0o600)
        except OSError as error:
            raise BackupError(f"Cannot write {self.partial_path}: {error.strerror}.") from error
        with ExitStack() as opened:
            self.file = opened.enter_context(os.fdopen(descriptor, "w+b"))
            self._lock(descriptor)
            os.ftruncate(descriptor, 0)
            opened.pop_all()
        return self

    def _lock(self, descriptor: int) -> None:
        """Until the file is closed. Not fcntl.lockf(), whose locks are SQLite's as well."""
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise BackupError(f"Another process is writing {self.partial_path}.") from None
        found = os.fstat(descriptor)
        with suppress(FileNotFoundError):
            if (
                os.path.samestat(found, self.partial_path.lstat())
                and stat.S_ISREG(found.st_mode)
                and found.st_uid == os.geteuid()
                and found.st_nlink == 1
            ):
                os.fchmod(descriptor, 0o600)
                return
        raise BackupError(f"Remove {self.partial_path}, or write to another directory.")

    def keep(self, *, overwrite: bool = False) -> None:
        """Give it its name, after everything has reached the disk. Raises BackupError."""
        self.file.flush()
        os.fsync(self.file.fileno())
        try:
            if overwrite:
                self.partial_path.replace(self.path)
            else:
                os.link(self.partial_path, self.path, follow_symlinks=False)
                self.partial_path.unlink()
        except FileExistsError:
            raise exists_error(self.path) from None
        except OSError as error:
            raise BackupError(f"Cannot write {self.path}: {error.strerror}.") from error
        sync_directory(self.path)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(self.file.fileno()), self.partial_path.lstat()):
                self.partial_path.unlink()
        self.file.close()


def exists_error(path: Path) -> BackupError:
    return BackupError(f"{path} exists. Choose another name, or use --overwrite.")


def sync_directory(path: Path) -> None:
    """So that the name of `path` survives a power failure."""
    descriptor = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
