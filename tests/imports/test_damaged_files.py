"""The command refuses a file that is damaged, or made to exhaust the machine, as a whole and in one
line."""

import json
import re
import tracemalloc
from collections import deque
from collections.abc import Callable
from pathlib import Path

import pytest
from fastapi import FastAPI

from app.operations.imports.columns import CsvReader, JsonLinesReader
from app.operations.imports.csv_files import read_rows
from app.operations.imports.errors import ImportFileError
from app.operations.imports.json_files import MAX_RECORD_CHARACTERS, read_records
from app.operations.imports.records import Options
from tests.imports.conftest import Import, users_of
from tests.support.markers import on_sqlite

KAY = b'{"username": "kay"}\n'
LONG = b"x" * (MAX_RECORD_CHARACTERS + 200_000)
DEEP = b"[" * 100_000

JSON = {
    "no JSON": (KAY + b"username: kay", "not valid JSON after record 1"),
    "cut": (KAY + b'{"username": "lan', "not valid JSON after record 1"),
    "invalid UTF-8": (KAY + b'{"username": "\xff\xfe"}', "not valid UTF-8"),
    "a member twice": (KAY + b'{"username": "a", "username": "b"}', "a member twice"),
    "a member twice, deep inside": (b'{"a": [{"b": {"c": 1, "c": 2}}]}', "a member twice"),
    "deep lists": (KAY + b'{"username": ' + DEEP, "nested too deeply"),
    "deep objects": (KAY + b'{"a":' * 100_000, "nested too deeply"),
    "a long text": (KAY + b'{"username": "' + LONG + b'"}', "longer than 1,048,576"),
    "a long name of a member": (KAY + b'{"' + LONG + b'": 1}', "longer than 1,048,576"),
    "many members": (
        b"{" + b",".join(b'"%d":0' % n for n in range(200_000)) + b"}",
        "longer than 1,048,576",
    ),
    "a long number": (KAY + b'{"username": ' + b"1" * 100_000 + b"}", "not valid JSON"),
    "a long number in a record of its own": (b"1" * 100_000, "not valid JSON"),
    "no number": (KAY + b'{"created_at": NaN}', "not valid JSON after record 1"),
    "a comma too many": (b'[{"username": "a"},]', "not valid JSON after record 1"),
    "a bracket too few": (b'[{"username": "a"}', "not valid JSON after record 1"),
    "NUL": (KAY + b'{"username": "a\0b"}', "not valid JSON after record 1"),
}
CSV = {
    "empty": (b"", "first line"),
    "a column twice": (b"username,username\na,b\n", "first line"),
    "too many columns": (b",".join(b"%d" % n for n in range(600)) + b"\n", "first line"),
    "more values than columns": (b"username\nkay\na,b\n", "record 2 has 2 values and not 1"),
    "invalid UTF-8": (b"username\nkay\n\xff\xfe\n", "not valid UTF-8"),
    "a quote that never ends": (b'username\nkay\n"a\n' + b"b\n" * 400_000, "not valid CSV"),
    "text after a quote": (b'username\nkay\n"a"b\n', "not valid CSV after record 1"),
    "a long value": (b"username\nkay\n" + LONG + b"\n", "not valid CSV after record 1"),
    "long values over many lines": (
        b'username\n"' + (b"y" * 1000 + b'\n","') * 2_000 + b'"\n',
        "not valid CSV",
    ),
}


@pytest.mark.parametrize(
    ("reader", "files"),
    [pytest.param(JsonLinesReader, JSON, id="JSON"), pytest.param(CsvReader, CSV, id="CSV")],
)
def test_a_damaged_file_is_refused(
    tmp_path: Path,
    subtests: pytest.Subtests,
    reader: Callable[..., CsvReader],
    files: dict[str, tuple[bytes, str]],
) -> None:
    for name, (content, told) in files.items():
        with subtests.test(name):
            file = tmp_path / "users"
            file.write_bytes(content)
            with pytest.raises(ImportFileError, match=re.escape(told)) as error:
                deque(reader(file, Options()).records(), maxlen=0)
            assert len(str(error.value)) < 300


@on_sqlite
async def test_a_damaged_file_changes_nothing(
    app: FastAPI, import_users: Import, tmp_path: Path, subtests: pytest.Subtests
) -> None:
    file = tmp_path / "users"
    for source, content, told in (
        ("jsonl", KAY + b"username: kay", "not valid JSON after record 1"),
        ("jsonl", b"", "has no users"),
        ("csv", b"username\nkay\na,b\n", "record 2 has 2 values and not 1"),
        ("csv", b"username,email\n", "has no users"),
    ):
        with subtests.test(f"{source}: {told}"):
            file.write_bytes(content)
            result = await import_users(file, "--from", source)
            assert result.exit_code == 1
            assert isinstance(result.exception, SystemExit)
            (line,) = result.stderr.splitlines()
            assert told in line
            assert await users_of(app) == {}


async def test_csv_values_may_have_quotes_and_line_breaks(tmp_path: Path) -> None:
    file = tmp_path / "users.csv"
    file.write_bytes('\ufeffusername,note\r\n"kay","a ""b"",\r\nc"\r\n\r\ngawain,\r\n'.encode())
    rows = [{"username": "kay", "note": 'a "b",\r\nc'}, {"username": "gawain", "note": ""}]
    assert list(read_rows(file)) == rows


def test_other_members_of_a_realm_are_skipped_whatever_they_are(tmp_path: Path) -> None:
    file = tmp_path / "realm.json"
    deep = json.loads("[" * 900 + "]" * 900)
    file.write_text(json.dumps({"a": deep, "users": [{"n": 1}], "b": {"users": [{"n": 2}]}}))
    assert list(read_records(file, "users")) == [{"n": 1}]
    file.write_text(json.dumps({"a": deep}))
    with pytest.raises(ImportFileError, match="needs an array `users`"):
        list(read_records(file, "users"))


@pytest.mark.parametrize(
    ("reader", "line"),
    [
        pytest.param(
            JsonLinesReader, '{"username": "knight", "note": "' + "x" * 1000 + '"}\n', id="JSON"
        ),
        pytest.param(CsvReader, f"knight,{'x' * 1000}\n", id="CSV"),
    ],
)
def test_a_file_is_read_in_constant_memory(
    tmp_path: Path, reader: Callable[..., CsvReader], line: str
) -> None:
    file = tmp_path / "users"
    file.write_text(("username,note\n" if reader is CsvReader else "") + line * 5_000)
    records = reader(file, Options()).records()
    next(records)
    tracemalloc.start()
    try:
        assert sum(1 for _ in records) == 4_999
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < MAX_RECORD_CHARACTERS < file.stat().st_size / 4
