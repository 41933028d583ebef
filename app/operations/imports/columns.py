"""Reads tables: CSV, or JSON with one object per user. Their columns have the names of our fields,
or those of FastAPI Users."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

from app.operations.imports.csv_files import read_rows
from app.operations.imports.errors import ImportFileError
from app.operations.imports.json_files import read_records
from app.operations.imports.reader import Reader
from app.operations.imports.values import FIELDS, flag, read_fields


class CsvReader(Reader):
    """Also the base class of readers of other tables. `columns` names our field for each column."""

    columns: ClassVar[Mapping[str, str]] = {name: name for name in FIELDS}

    def records(self) -> Iterator[Any]:
        return read_rows(self._path)

    def read_user(self, record: Mapping[str, Any]) -> dict[str, Any]:
        return read_fields({field: record.get(column) for column, field in self.columns.items()})


class JsonLinesReader(CsvReader):
    def records(self) -> Iterator[Any]:
        return read_records(self._path)


class TableReader(CsvReader):
    """Reads CSV or JSON, whichever the file contains."""

    def records(self) -> Iterator[Any]:
        return read_records(self._path) if _is_json(self._path) else read_rows(self._path)


class FastApiUsersReader(TableReader):
    columns: ClassVar = {
        "username": "username",
        "email": "email",
        "is_verified": "email_verified",
        "is_active": "is_enabled",
        "hashed_password": "password_hash",
        "created_at": "created_at",
    }

    def read_user(self, record: Mapping[str, Any]) -> dict[str, Any]:
        found = super().read_user(record)
        if flag(record.get("is_superuser") or False):
            found["roles"] = ("is_superuser",)
        return found


def _is_json(path: Path) -> bool:
    """The first character decides."""
    try:
        with path.open("rb") as file:
            return file.read(1024).removeprefix(b"\xef\xbb\xbf").lstrip()[:1] in (b"[", b"{")
    except OSError as error:
        raise ImportFileError(f"Cannot read {path}: {error.strerror}.") from None
