"""Reads records from JSON files of any length in constant memory, with the standard library.

A file is refused as a whole if it is damaged, if an object has a member twice, or beyond a bound.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn, TextIO

from app.operations.imports.errors import ImportFileError

MAX_RECORD_CHARACTERS = 2**20
MAX_OTHER_CHARACTERS = 2**26  # of a value beside the records, such as all clients of a realm

_CHUNK = 2**16
_BLANKS = re.compile(r"[ \t\r\n]*")


def read_records(path: Path, member: str | None = None) -> Iterator[Any]:
    """Yields the elements of the array `member` of the object in the file. Without `member`, yields
    the elements of the array in the file, or values one after the other, as in JSON Lines.

    Raises ImportFileError.
    """
    number = 0
    try:
        with path.open(encoding="utf-8-sig") as file:
            for record in _records(_Scanner(file), member):
                number += 1
                yield record
    except OSError as error:
        raise ImportFileError(f"Cannot read {path}: {error.strerror}.") from None
    except _BoundError as error:
        raise ImportFileError(f"{path}, after record {number}: {error}.") from None
    except RecursionError:
        problem = "values are nested too deeply"
        raise ImportFileError(f"{path}, after record {number}: {problem}.") from None
    except UnicodeDecodeError:
        raise ImportFileError(f"{path} is not valid UTF-8 after record {number}.") from None
    except ValueError:  # JSONDecodeError, whose text quotes the file, or a number of 5,000 digits
        raise ImportFileError(f"{path} is not valid JSON after record {number}.") from None
    if not number and member:
        raise ImportFileError(f"{path} has no records: it needs an array `{member}`.")


class _BoundError(Exception):
    """The text says which bound was exceeded."""


class _Scanner:
    """Reads values one by one. Only the text from the current value on is in memory."""

    def __init__(self, file: TextIO) -> None:
        self._file = file
        self._text = ""
        self._position = 0
        self._is_at_end = False
        self._decoder = json.JSONDecoder(
            object_pairs_hook=_build_object, parse_constant=_refuse_constant
        )

    def peek(self) -> str:
        """The next character that is not blank. Empty at the end of the file."""
        while True:
            match = _BLANKS.match(self._text, self._position)
            assert match
            self._position = match.end()
            if self._position < len(self._text):
                return self._text[self._position]
            if not self._read_more(_CHUNK):
                return ""

    def skip(self, character: str) -> None:
        """Raises ValueError if another one follows."""
        if self.peek() != character:
            raise ValueError(character)
        self._position += 1

    def value(self, max_characters: int) -> Any:
        """Raises ValueError and RecursionError."""
        self.peek()
        while True:
            length = len(self._text) - self._position
            try:
                found, end = self._decoder.raw_decode(self._text, self._position)
            except json.JSONDecodeError:
                # Perhaps the rest of it has not been read. Doubled, so that the time stays linear.
                if length <= max_characters and self._read_more(max(_CHUNK, length)):
                    continue
                if length > max_characters:
                    raise _BoundError(
                        f"a value is damaged or longer than {max_characters:,} characters"
                    ) from None
                raise
            if end == len(self._text) and self._read_more(_CHUNK):
                continue  # the rest of a number may follow
            if end - self._position > max_characters:
                raise _BoundError(f"a value is longer than {max_characters:,} characters")
            self._position = end
            return found

    def _read_more(self, characters: int) -> bool:
        """False at the end of the file."""
        if not self._is_at_end:
            read = self._file.read(characters)
            self._is_at_end = not read
            self._text = self._text[self._position :] + read
            self._position = 0
        return not self._is_at_end


def _build_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    built = dict(pairs)
    if len(built) != len(pairs):
        raise _BoundError("an object has a member twice")
    return built


def _refuse_constant(name: str) -> NoReturn:
    """NaN and Infinity, which are not JSON."""
    raise ValueError(name)


def _records(scanner: _Scanner, member: str | None) -> Iterator[Any]:
    while character := scanner.peek():
        if character == "[":
            yield from _elements(scanner)
        elif member is None:
            yield scanner.value(MAX_RECORD_CHARACTERS)
        else:
            yield from _elements_of_member(scanner, member)


def _elements(scanner: _Scanner) -> Iterator[Any]:
    scanner.skip("[")
    if scanner.peek() == "]":
        scanner.skip("]")
        return
    while True:
        yield scanner.value(MAX_RECORD_CHARACTERS)
        if scanner.peek() != ",":
            break
        scanner.skip(",")
    scanner.skip("]")


def _elements_of_member(scanner: _Scanner, member: str) -> Iterator[Any]:
    scanner.skip("{")
    while scanner.peek() == '"':
        name = scanner.value(MAX_RECORD_CHARACTERS)
        scanner.skip(":")
        if name == member and scanner.peek() == "[":
            yield from _elements(scanner)
        else:
            scanner.value(MAX_OTHER_CHARACTERS)
        if scanner.peek() != ",":
            break
        scanner.skip(",")
    scanner.skip("}")
