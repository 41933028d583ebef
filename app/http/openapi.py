"""The OpenAPI document: FastAPI's, plus what generated clients need.

FastAPI does not say which members are always present, how large an integer can be, and which
operations need no token.
"""

from collections.abc import Iterator
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from app.errors import ApiError
from app.http.addresses import public_url

MAX_INT32, MAX_INT64 = 2**31 - 1, 2**63 - 1

# FastAPI lists DELETE before PATCH.
_METHODS = ("get", "post", "put", "patch", "delete")
# For users who already have a token, and for generated clients.
_BEARER_SCHEME = {
    "type": "http",
    "scheme": "bearer",
    "bearerFormat": "JWT",
    "description": "An access token that you have already.",
}
# error_responses.py derives them from Starlette's errors.
_FRAMEWORK_CODES = ("method_not_allowed",)

Schema = dict[str, Any]


def build_document(app: FastAPI, issuer: str) -> dict[str, Any]:
    document = get_openapi(
        title=app.title,
        version=app.version,
        summary=app.summary,
        description=app.description,
        routes=app.routes,
        tags=app.openapi_tags,
        license_info=app.license_info,
        servers=[{"url": issuer.rstrip("/")}],
    )
    _complete_addresses(document, issuer)
    schemas: dict[str, Schema] = document["components"]["schemas"]
    document["components"]["securitySchemes"]["Bearer"] = _BEARER_SCHEME
    for path, operations in document["paths"].items():
        document["paths"][path] = {
            name: operations[name] for name in _METHODS if name in operations
        }
        for operation in operations.values():
            _drop_undocumented_422(operation)
            _declare_security(operation)
            _name_body(operation, schemas)
            for parameter in operation.get("parameters", ()):
                parameter["schema"] = _without_null(parameter["schema"])
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    schemas["ErrorBody"]["properties"]["error"]["enum"] = _error_codes()
    for name in _names_in_responses(document):
        _require_constant_members(schemas[name])
    for schema in _dicts_in(document):
        _size_integer(schema)
        _describe_secret(schema)
    return document


def _complete_addresses(document: Schema, issuer: str) -> None:
    """Make URLs absolute, for clients that read the document from a file. The docs page uses its
    own origin."""
    for scheme in document["components"]["securitySchemes"].values():
        for flow in scheme.get("flows", {}).values():
            flow["tokenUrl"] = flow["refreshUrl"] = public_url(issuer, "/token")


def _drop_undocumented_422(operation: Schema) -> None:
    """FastAPI adds a 422 in its own shape to each route with parameters that documents none. Here
    that is GET /token_status/{token}, which accepts any text."""
    responses = operation["responses"]
    if "HTTPValidationError" in str(responses.get("422")):
        del responses["422"]


def _declare_security(operation: Schema) -> None:
    """Declare both schemes, or explicitly none. The scope is in the description too, since Swagger
    UI shows it only in a dialog."""
    declared = operation.setdefault("security", [])
    if declared:
        (scopes,) = declared[0].values()
        needed = f" with the scope `{' '.join(scopes)}`" if scopes else ""
        operation["description"] += f"\n\nRequires an access token{needed}."
        declared.append({"Bearer": []})  # only OAuth's schemes have scopes


def _name_body(operation: Schema, schemas: dict[str, Schema]) -> None:
    """Give a body that its route parses itself a name, so that generated clients have one type for
    all its media types."""
    for content in operation.get("requestBody", {}).get("content", {}).values():
        if name := content["schema"].get("title"):
            schemas[name] = content["schema"]
            content["schema"] = {"$ref": f"#/components/schemas/{name}"}


def _describe_secret(schema: Schema) -> None:
    """Pydantic marks a secret as write-only and as a password. Generated clients then omit it, or
    send asterisks."""
    if schema.pop("writeOnly", None):
        schema.pop("format", None)


def _without_null(schema: Schema) -> Schema:
    """A query parameter is sent or omitted: there is no null in a URL."""
    kinds = [kind for kind in schema.get("anyOf", ()) if kind != {"type": "null"}]
    if len(kinds) != 1:
        return schema
    others = {name: value for name, value in schema.items() if name not in ("anyOf", "default")}
    return {**kinds[0], **others}


def _require_constant_members(schema: Schema) -> None:
    """Members with a constant value are always in a response. Optional members are omitted rather
    than null."""
    required = schema.setdefault("required", [])
    for name, member in schema.get("properties", {}).items():
        if name in required:
            continue
        constant = member.pop("default", None)
        if constant is not None:
            member.setdefault("examples", [constant])
            required.append(name)
        else:
            schema["properties"][name] = _without_null(member)


def _size_integer(schema: Schema) -> None:
    """Without a format, most generators use 32 bits. For a type with a validator function, Pydantic
    writes `ge` and `le`."""
    if schema.get("type") != "integer":
        return
    for name, keyword in (("ge", "minimum"), ("le", "maximum")):
        if name in schema:
            schema[keyword] = schema.pop(name)
    if "exclusiveMaximum" in schema:
        schema["maximum"] = schema.pop("exclusiveMaximum") - 1
    largest = schema.get("maximum", MAX_INT64)
    schema.setdefault("format", "int32" if largest <= MAX_INT32 else "int64")


def _error_codes() -> list[str]:
    codes = {kind.error for kind in _kinds_of(ApiError) if hasattr(kind, "error")}
    return sorted({*codes, *_FRAMEWORK_CODES})


def _kinds_of(kind: type[ApiError]) -> Iterator[type[ApiError]]:
    for subclass in kind.__subclasses__():
        if subclass.__module__.startswith("app."):
            yield subclass
            yield from _kinds_of(subclass)


def _names_in_responses(document: Schema) -> set[str]:
    """The schemas that responses refer to, directly or through others."""
    schemas = document["components"]["schemas"]
    responses = [
        operation["responses"]
        for operations in document["paths"].values()
        for operation in operations.values()
    ]
    names: set[str] = set()
    unread: list[Any] = [responses]
    while unread:
        referred = {
            schema["$ref"].rpartition("/")[2]
            for schema in _dicts_in(unread.pop())
            if "$ref" in schema
        }
        unread += [schemas[name] for name in referred - names]
        names |= referred
    return names


def _dicts_in(node: Any) -> Iterator[dict[str, Any]]:
    if isinstance(node, dict):
        yield node
        for name, value in node.items():
            if name not in ("example", "examples"):
                yield from _dicts_in(value)
    elif isinstance(node, list):
        for item in node:
            yield from _dicts_in(item)
