"""The service's OpenAPI document, and whether a response is as it says."""

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jsonschema  # type: ignore[import-untyped] # ships no types
import pytest
from httpx import Response

from app.http.docs_page import COMMON_ERRORS
from app.main import app

DOCUMENT: dict[str, Any] = app.openapi()
SCHEMAS: dict[str, dict[str, Any]] = DOCUMENT["components"]["schemas"]
OPERATIONS: dict[str, dict[str, Any]] = {
    f"{method.upper()} {path}": operation
    for path, methods in DOCUMENT["paths"].items()
    for method, operation in methods.items()
}
# What programs read. Every other header comes with many operations, and is no part of one.
_HEADERS = re.compile("location|etag|retry-after|www-authenticate|x-auth-.*")
IN_INTRODUCTION = {(error.status, error.error) for error in COMMON_ERRORS}


def for_each(
    cases: Mapping[str, Any],
) -> Callable[[Callable[[Any], None]], Callable[[pytest.Subtests], None]]:
    """Make a test of a check, with a subtest for each case. Tests of their own would take longer
    than the checks."""

    def decorate(check: Callable[[Any], None]) -> Callable[[pytest.Subtests], None]:
        def test(subtests: pytest.Subtests) -> None:
            for name, case in cases.items():
                with subtests.test(name):
                    check(case)

        return test

    return decorate


for_each_operation = for_each(OPERATIONS)


def name_of(call: str) -> str:
    """The operation of a call such as `GET /users/7`."""
    (name,) = (name for name in OPERATIONS if re.fullmatch(re.sub(r"{\w+}", "[^/]+", name), call))
    return name


def assert_documented(response: Response) -> str:
    """The response has the status, the members and the headers of its operation, whose name is
    returned."""
    name = name_of(f"{response.request.method} {response.request.url.path}")
    body = response.json() if response.content else None
    error = body.get("error") if isinstance(body, dict) else None
    if (response.status_code, error) in IN_INTRODUCTION:
        return name
    documented = OPERATIONS[name]["responses"][str(response.status_code)]
    headers = documented.get("headers", {})
    required = {header.lower() for header in headers if headers[header].get("required", True)}
    assert required <= set(response.headers), name
    documented_names = {header.lower() for header in headers}
    assert set(filter(_HEADERS.fullmatch, response.headers)) <= documented_names, name
    if body is not None:
        content = documented["content"]["application/json"]
        _assert_members(content["schema"], body)
        if error:
            assert error in {example["value"]["error"] for example in content["examples"].values()}
    return name


def _assert_members(schema: dict[str, Any], body: Any) -> None:
    """Valid, and with no member that the schema does not have."""
    jsonschema.validate(
        body,
        {**schema, "components": DOCUMENT["components"]},
        jsonschema.Draft202012Validator,
        format_checker=jsonschema.FormatChecker(),
    )
    for object_schema, found in _objects(schema, body):
        assert set(found) <= set(object_schema["properties"]), (object_schema.get("title"), found)


def _objects(schema: dict[str, Any], body: Any) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    schema = SCHEMAS[schema["$ref"].rpartition("/")[2]] if "$ref" in schema else schema
    if isinstance(body, dict) and "properties" in schema:
        yield schema, body
        for name, value in body.items():
            yield from _objects(schema["properties"].get(name, {}), value)
    elif isinstance(body, list):
        for item in body:
            yield from _objects(schema.get("items", {}), item)


def dicts_in(node: Any) -> Iterator[dict[str, Any]]:
    """Every object of a part of the document, without its examples."""
    if isinstance(node, dict):
        yield node
        for name, value in node.items():
            if name not in ("example", "examples"):
                yield from dicts_in(value)
    elif isinstance(node, list):
        for item in node:
            yield from dicts_in(item)
