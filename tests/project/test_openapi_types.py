"""What clients generated from the OpenAPI document need: exact types, explicit security, shared
bodies, and texts."""

import re
from typing import Any

from app.main import app as default_app
from tests.support.openapi import (
    DOCUMENT,
    OPERATIONS,
    SCHEMAS,
    dicts_in,
    for_each,
    for_each_operation,
)

SCHEMES = DOCUMENT["components"]["securitySchemes"]


def names_in(node: Any) -> set[str]:
    """The schemas to which a part of the document refers, directly or through others."""
    names: set[str] = set()
    unread = [node]
    while unread:
        found = {s["$ref"].rpartition("/")[2] for s in dicts_in(unread.pop()) if "$ref" in s}
        unread += [SCHEMAS[name] for name in found - names]
        names |= found
    return names


IN_RESPONSES = names_in([operation["responses"] for operation in OPERATIONS.values()])


def test_every_integer_has_a_size_and_bounds_within_it() -> None:
    integers = [schema for schema in dicts_in(DOCUMENT) if schema.get("type") == "integer"]
    assert len(integers) > 20
    for schema in integers:
        bits = {"int32": 31, "int64": 63}[schema["format"]]
        assert "exclusiveMaximum" not in schema
        assert schema.get("maximum", 0) <= 2**bits - 1, schema


def test_bounds_have_their_names_of_json_schema() -> None:
    for schema in dicts_in(DOCUMENT):
        assert not {"ge", "gt", "le", "lt"} & set(schema), schema
    (parameter,) = OPERATIONS["GET /users/{user_id}"]["parameters"]
    assert (parameter["schema"]["minimum"], parameter["schema"]["maximum"]) == (1, 2**63 - 1)


def test_ids_and_times_have_64_bits() -> None:
    for name, schema in SCHEMAS.items():
        for member in {"id", "user_id", "exp", "iat"} & set(schema.get("properties", ())):
            kinds = [kind for kind in dicts_in(schema["properties"][member]) if "format" in kind]
            if kinds:
                assert [kind["format"] for kind in kinds] == ["int64"], (name, member)


def test_no_schema_has_the_name_of_a_constructor_of_another() -> None:
    """In Go, NewInvitation() makes an Invitation."""
    assert not [name for name in SCHEMAS if name.removeprefix("New") in set(SCHEMAS) - {name}]


@for_each({name: name for name in SCHEMAS})
def test_no_member_has_the_name_of_its_schema(name: str) -> None:
    """openapi-python-client has a variable for each of both."""
    assert re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower() not in SCHEMAS[name]["properties"]


@for_each({name: name for name in sorted(IN_RESPONSES)})
def test_a_response_says_which_members_always_come(name: str) -> None:
    required = set(SCHEMAS[name].get("required", ()))
    for member, schema in SCHEMAS[name]["properties"].items():
        assert "default" not in schema
        if member not in required:
            assert {"type": "null"} not in schema.get("anyOf", []), member


@for_each_operation
def test_a_parameter_is_omitted_rather_than_null(operation: dict[str, Any]) -> None:
    for parameter in operation.get("parameters", ()):
        assert "null" not in str(parameter["schema"])


def test_a_scope_that_can_be_repeated_is_a_list() -> None:
    _, scope = OPERATIONS["GET /verify"]["parameters"]
    assert (scope["schema"]["type"], scope["schema"]["items"]["type"]) == ("array", "string")


@for_each_operation
def test_an_operation_is_open_or_takes_a_token_in_either_way(operation: dict[str, Any]) -> None:
    if operation["security"] == []:
        return
    password, bearer = operation["security"]
    assert list(password) == ["Password"]
    assert bearer == {"Bearer": []}


def test_a_client_can_use_a_token_that_it_already_has() -> None:
    assert (SCHEMES["Bearer"]["type"], SCHEMES["Bearer"]["scheme"]) == ("http", "bearer")


def test_the_addresses_are_absolute() -> None:
    """Of the issuer, which is the default here."""
    assert DOCUMENT["servers"] == [{"url": "http://localhost:8000"}]
    flow = SCHEMES["Password"]["flows"]["password"]
    assert flow["tokenUrl"] == "http://localhost:8000/token"


def test_the_flow_can_be_refreshed_and_describes_its_scopes() -> None:
    flow = SCHEMES["Password"]["flows"]["password"]
    assert flow["refreshUrl"] == flow["tokenUrl"]
    assert "offline_access" in flow["scopes"]
    assert all(description.endswith(".") for description in flow["scopes"].values())


@for_each_operation
def test_all_media_types_of_a_body_have_one_type(operation: dict[str, Any]) -> None:
    body = operation.get("requestBody", {"content": {}})
    schemas = [content["schema"] for content in body["content"].values()]
    assert all(set(schema) == {"$ref"} and schema == schemas[0] for schema in schemas)
    if len(schemas) == 2:
        assert next(iter(body["content"])) == "application/json"
        assert body["required"] is False  # openapi-python-client cannot import it otherwise


def test_nothing_is_left_out_or_masked_by_a_generated_client() -> None:
    for schema in dicts_in(DOCUMENT):
        assert "writeOnly" not in schema
        assert schema.get("format") != "password"


@for_each_operation
def test_everything_is_described(operation: dict[str, Any]) -> None:
    for parameter in operation.get("parameters", ()):
        assert parameter["description"].endswith("."), parameter["name"]
    for status, response in operation["responses"].items():
        assert response["description"] != "Successful Response", status
        for header in response.get("headers", {}).values():
            assert header["description"].endswith(".")


@for_each({name: name for name in SCHEMAS})
def test_every_member_is_described(name: str) -> None:
    for member, schema in SCHEMAS[name]["properties"].items():
        assert any("description" in found for found in dicts_in(schema)), member


def test_the_codes_of_errors_are_an_enumeration() -> None:
    codes = SCHEMAS["ErrorBody"]["properties"]["error"]["enum"]
    assert {"invalid_token", "user_exists", "method_not_allowed", "server_error"} <= set(codes)
    for operation in OPERATIONS.values():
        for status, response in operation["responses"].items():
            if status >= "400":
                examples = response["content"]["application/json"]["examples"].values()
                assert {example["value"]["error"] for example in examples} <= set(codes)


def test_a_wait_is_a_number() -> None:
    waits = [
        response["headers"]["Retry-After"]["schema"]["type"]
        for operation in OPERATIONS.values()
        for response in operation["responses"].values()
        if "Retry-After" in response.get("headers", {})
    ]
    assert waits
    assert set(waits) == {"integer"}


def test_examples_name_nobodys_domain() -> None:
    """RFC 2606 reserves these."""
    addresses = re.findall(r"[\w.]+@([\w.]+)", str(DOCUMENT))
    assert addresses
    assert all(re.fullmatch(r"(.*\.)?example(\.(org|com|net))?", domain) for domain in addresses)


def test_the_form_of_a_login_is_not_filled_with_a_code() -> None:
    """Swagger UI fills in each member's own example, and sends it."""
    members = SCHEMAS["TokenRequest"]["properties"]
    filled = {name for name, schema in members.items() if "example" in str(schema)}
    assert filled == set()


def test_the_form_with_a_token_is_filled_with_a_hint_that_exists() -> None:
    """Without an example, Swagger UI fills in the word `string`."""
    hint = SCHEMAS["TokenForm"]["properties"]["token_type_hint"]
    assert hint["examples"] == ["access_token"]


def test_the_document_has_a_licence() -> None:
    assert DOCUMENT["info"]["license"] == {"name": "MIT", "identifier": "MIT"}
    assert default_app.license_info == DOCUMENT["info"]["license"]
