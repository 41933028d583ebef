"""Reads records from CSV files (RFC 4180, UTF-8, with a header) of any length in constant memory.

A file is refused as a whole if it is damaged or beyond a bound.
"""

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from app.operations.imports.errors import ImportFileError

MAX_RECORD_CHARACTERS = 2**20
MAX_COLUMNS = 500


def read_rows(path: Path) -> Iterator[dict[str, str]]:
    """Raises ImportFileError."""
    number = 0
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            lines = _BoundedLines(file)
            rows = csv.reader(lines, strict=True)
            columns = _header(rows, path)
            for row in rows:
                lines.mark()
                if not row:  # an empty line
                    continue
                if len(row) != len(columns):
                    found = f"{len(row)} values and not {len(columns)}"
                    raise ImportFileError(f"{path}: record {number + 1} has {found}.")
                number += 1
                yield dict(zip(columns, row, strict=True))
    except OSError as error:
        raise ImportFileError(f"Cannot read {path}: {error.strerror}.") from None
    except UnicodeError:
        raise ImportFileError(f"{path} is not valid UTF-8 after record {number}.") from None
    except csv.Error:
        raise ImportFileError(f"{path} is not valid CSV after record {number}.") from None


def _header(rows: Iterator[list[str]], path: Path) -> list[str]:
    columns = next(rows, [])
    if not columns or len(set(columns)) != len(columns) or len(columns) > MAX_COLUMNS:
        rule = f"name each column, at most {MAX_COLUMNS}, and none twice"
        raise ImportFileError(f"{path}: the first line must {rule}.")
    return columns


class _BoundedLines:
    """The lines of a file. Neither a line nor a record has more than MAX_RECORD_CHARACTERS."""

    def __init__(self, file: TextIO) -> None:
        self._file = file
        self._unmarked = 0

    def mark(self) -> None:
        self._unmarked = 0

    def __iter__(self) -> Iterator[str]:
        while line := self._file.readline(MAX_RECORD_CHARACTERS + 1):
            self._unmarked += len(line)
            if self._unmarked > MAX_RECORD_CHARACTERS:
                raise csv.Error
            yield line
