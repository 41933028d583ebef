"""The base class of all formats: reads the records of a file, and makes a user of each record."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

from app.operations.imports.errors import ImportFileError, LeftOutError, Reason
from app.operations.imports.records import ImportedUser, Options
from app.operations.imports.values import read_fields


class Reader(ABC):
    """Opens no export before records() is called."""

    batch: ClassVar[int] = 1_000  # users that are written in one transaction

    def __init__(self, path: Path, options: Options) -> None:
        """Raises ImportFileError for an option that the format needs or does not have."""
        self._path = path
        self._options = options
        for name in ("hashes", "secrets"):
            if getattr(options, name) is not None and name not in self.accepted_options():
                raise ImportFileError(f"--{name} has no meaning for this format.")

    def accepted_options(self) -> frozenset[str]:
        return frozenset()

    @abstractmethod
    def records(self) -> Iterator[Any]:
        """Can be called again. Raises ImportFileError."""

    @abstractmethod
    def read_user(self, record: Mapping[str, Any]) -> dict[str, Any]:
        """The arguments of ImportedUser. Raises LeftOutError."""

    def user(self, record: Any) -> ImportedUser:
        """Raises LeftOutError."""
        if not isinstance(record, dict):
            raise LeftOutError(Reason.RECORD, "It is not an object")
        found = self.read_user(record)
        given = {
            field: _value_at(record, column) for field, column in self._options.columns.items()
        }
        return ImportedUser(**(found | read_fields(given)))

    def name(self, record: Any) -> str:
        """The name of the user in reports. Empty if the record has none."""
        if not isinstance(record, dict):
            return ""
        for column in (self._options.columns.get("username", "username"), "email"):
            value = _value_at(record, column)
            if isinstance(value, str) and value:
                return value
        return ""


def _value_at(record: Mapping[str, Any], column: str) -> Any:
    """`column` is a name, or a path such as app_metadata.plan."""
    if column in record:
        return record[column]
    found: Any = record
    for name in column.split("."):
        if not isinstance(found, dict):
            return None
        found = found.get(name)
    return found
