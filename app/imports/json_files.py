"""Reads records from JSON files of any length in constant memory.

A file is refused as a whole if it is damaged, if an object has a member twice, or beyond a bound.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import ijson

from app.imports.errors import ImportFileError

MAX_RECORD_BYTES = 2**20
MAX_DEPTH = 32

_CHUNK = 64 * 1024

_Events = Iterator[tuple[str, Any]]


def read_records(path: Path, member: str | None = None) -> Iterator[Any]:
    """The values of the array that is `member` of the object in the file, or of the array in the
    file, or one after the other, as in JSON Lines. Raises ImportFileError."""
    number = 0
    try:
        with path.open("rb") as opened:
            file = _BoundedFile(opened)
            events = ijson.basic_parse(file, multiple_values=True, buf_size=_CHUNK)
            for record in _records(events, file, member):
                number += 1
                yield record
    except OSError as error:
        raise ImportFileError(f"Cannot read {path}: {error.strerror}.") from None
    except (ijson.JSONError, ValueError, UnicodeError):
        # Their messages quote the file.
        raise ImportFileError(f"{path} is not valid JSON after record {number}.") from None
    except _BoundError as error:
        raise ImportFileError(f"{path}, after record {number}: {error}.") from None
    if not number and member:
        raise ImportFileError(f"{path} has no records: it needs an array `{member}`.")


class _BoundError(Exception):
    """The text says which bound."""


class _BoundedFile:
    """Counts the bytes since the last mark, so that no value is longer than MAX_RECORD_BYTES."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._unmarked = 0

    def mark(self) -> None:
        self._unmarked = 0

    def read(self, size: int) -> bytes:
        if self._unmarked > MAX_RECORD_BYTES:
            raise _BoundError("a record is longer than 1 MiB")
        chunk = self._file.read(size)
        self._unmarked += len(chunk)
        return chunk


def _records(events: _Events, file: _BoundedFile, member: str | None) -> Iterator[Any]:
    for event, value in events:
        file.mark()
        if event == "start_array":
            yield from _elements(events, file)
        elif event == "start_map" and member is not None:
            for _, name in _until(events, "end_map"):
                file.mark()
                event_of_value, _ = next(events)
                if name == member and event_of_value == "start_array":
                    yield from _elements(events, file)
                else:
                    _skip(event_of_value, events, file)
        else:
            yield _build(event, value, events, 1)


def _elements(events: _Events, file: _BoundedFile) -> Iterator[Any]:
    for event, value in _until(events, "end_array"):
        file.mark()
        yield _build(event, value, events, 1)


def _until(events: _Events, end: str) -> _Events:
    for event, value in events:
        if event == end:
            return
        yield event, value


def _skip(event: str, events: _Events, file: _BoundedFile) -> None:
    depth = _step(event)
    while depth:
        event, _ = next(events)
        file.mark()
        depth += _step(event)


def _step(event: str) -> int:
    return event.startswith("start_") - event.startswith("end_")


def _build(event: str, value: Any, events: _Events, depth: int) -> Any:
    if not event.startswith("start_"):
        return value
    if depth > MAX_DEPTH:
        raise _BoundError(f"values are nested more than {MAX_DEPTH} levels deep")
    if event == "start_array":
        return [_build(*item, events, depth + 1) for item in _until(events, "end_array")]
    built: dict[str, Any] = {}
    for _, name in _until(events, "end_map"):
        if name in built:
            raise _BoundError("an object has a member twice")
        built[name] = _build(*next(events), events, depth + 1)
    return built
