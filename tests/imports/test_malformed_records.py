"""A member of a record may have any type and value. The user is imported or left out, and nothing
fails.
"""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from fastapi import FastAPI

from app.operations.imports.errors import LeftOutError
from app.operations.imports.formats import READERS
from app.operations.imports.records import Options
from app.operations.imports.rules import Rules
from app.settings import Settings
from tests.imports.exported import EXPORTED, EXPORTS
from tests.support.markers import on_sqlite
from tests.support.settings import utc_now

OTHER_VALUES: list[Any] = [
    *(None, True, False, 0, -1, 1.5, 10**30, -(10**30), float("inf")),
    *("", " ", "x", "\0", "\ud800", "\u202e", "null", "[]", "{}", '{"a": [1]}', "x" * 70_000),
    *([], [[]], [1], ["a"], ["\ud800"], {}, {"a": 1}, {"value": {}}, [{"type": ["password"]}]),
]
OPTIONS = {
    "firebase": Options(secrets=EXPORTS / "firebase-hash-config.txt"),
    "book": Options(secrets=EXPORTS / "book-config.yml"),
    "auth0": Options(hashes=EXPORTS / "auth0-hashes.ndjson"),
}


def variants(value: Any) -> Iterator[Any]:
    """The value with each of its parts replaced or left out. JSON in a text has parts too."""
    yield from OTHER_VALUES
    if isinstance(value, dict):
        for name in value:
            rest = {other: kept for other, kept in value.items() if other != name}
            yield rest
            yield from ({**rest, name: variant} for variant in variants(value[name]))
    elif isinstance(value, list):
        for index in range(len(value)):
            for variant in variants(value[index]):
                yield [*value[:index], variant, *value[index + 1 :]]
    elif isinstance(value, str) and value.startswith("{"):
        yield from (json.dumps(variant) for variant in variants(json.loads(value)))


def shape(value: Any) -> Any:
    """The names of the members and the types of their values. Records of one shape have the same
    variants."""
    if isinstance(value, dict):
        return {name: shape(member) for name, member in value.items()}
    if isinstance(value, list):
        return [shape(element) for element in value]
    if isinstance(value, str) and value.startswith("{"):
        return shape(json.loads(value))
    return type(value)


@on_sqlite
def test_a_malformed_record_is_left_out(
    app: FastAPI, settings: Settings, subtests: pytest.Subtests
) -> None:
    files = {export.source: export.file for export in EXPORTED.values()} | {"jsonl": "users.jsonl"}
    for source in sorted(READERS.keys() - {"csv"}):  # as jsonl, with texts only
        with subtests.test(source):
            options = OPTIONS.get(source, Options())
            reader = READERS[source](EXPORTS / files[source], options)
            rules = Rules(app.state.services.passwords, settings, options)
            imported = 0
            shapes: list[Any] = []
            for record in list(reader.records()):
                if shape(record) in shapes:
                    continue
                shapes.append(shape(record))
                for variant in variants(record):
                    assert isinstance(reader.name(variant), str)
                    try:
                        rules.check(reader.user(variant), utc_now())
                    except LeftOutError:
                        pass
                    else:
                        imported += 1
            assert imported > 50
