"""The OpenAPI document is valid, complete and true. tests/clients generates clients from it.

On SQLite only, because the document does not depend on the database.
"""

import json
import re
from collections.abc import Iterator
from typing import Any

import jsonschema  # type: ignore[import-untyped] # ships no types
import openapi_spec_validator
import pytest
from fastapi import FastAPI
from httpx import AsyncClient

from app.http.docs_page import COMMON_ERRORS
from app.tokens.errors import InsufficientScopeError, LimitedTokenError
from tests.support.markers import on_sqlite
from tests.support.openapi import (
    DOCUMENT,
    OPERATIONS,
    SCHEMAS,
    assert_documented,
    for_each,
    for_each_operation,
)
from tests.support.users import ARTHUR, GALAHAD, LANCELOT, bearer, log_in, register

PASSWORD_FLOW = DOCUMENT["components"]["securitySchemes"]["Password"]["flows"]["password"]


ERROR_BODY = jsonschema.Draft202012Validator({**DOCUMENT, "$ref": "#/components/schemas/ErrorBody"})


def refusals_of(operation: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {status: it for status, it in operation["responses"].items() if status >= "400"}


def test_the_document_is_valid_openapi_3_1() -> None:
    assert DOCUMENT["openapi"].startswith("3.1.")
    openapi_spec_validator.validate(DOCUMENT)


def test_the_calls_are_those_of_the_contract_and_generated_clients_find_them_by_name() -> None:
    names = {call: operation["operationId"] for call, operation in OPERATIONS.items()}
    assert names == {
        "POST /register-user": "registerUser",
        "POST /token": "issueToken",
        "GET /token_status/{token}": "readTokenStatus",
        "PUT /toggle-user-permission/{user_id}/{permission}": "toggleUserPermission",
        "DELETE /remove-user/{user_id}": "removeUser",
        "GET /me": "readOwnProfile",
        "PATCH /me": "changeOwnProfile",
        "DELETE /me": "removeOwnAccount",
        "POST /me/password": "changeOwnPassword",
        "POST /me/logout-everywhere": "logOutEverywhere",
        "GET /me/sessions": "listOwnSessions",
        "DELETE /me/sessions/{session_id}": "endOwnSession",
        "POST /users/{user_id}/revoke-tokens": "revokeTokensOfUser",
        "GET /users/{user_id}/sessions": "listSessionsOfUser",
        "DELETE /users/{user_id}/sessions/{session_id}": "endSessionOfUser",
        "GET /me/second-factor": "readSecondFactor",
        "POST /me/second-factor": "enrolSecondFactor",
        "DELETE /me/second-factor": "removeSecondFactor",
        "POST /me/second-factor/confirm": "confirmSecondFactor",
        "POST /me/second-factor/recovery-codes": "renewRecoveryCodes",
        "DELETE /users/{user_id}/second-factor": "resetSecondFactorOfUser",
        "POST /me/api-keys": "createOwnApiKey",
        "GET /me/api-keys": "listOwnApiKeys",
        "GET /me/api-keys/{key_id}": "readOwnApiKey",
        "PATCH /me/api-keys/{key_id}": "changeOwnApiKey",
        "DELETE /me/api-keys/{key_id}": "revokeOwnApiKey",
        "POST /me/api-keys/{key_id}/rotate": "rotateOwnApiKey",
        "POST /me/api-keys/{key_id}/suspend": "suspendOwnApiKey",
        "POST /me/api-keys/{key_id}/resume": "resumeOwnApiKey",
        "POST /service-accounts/{user_id}/api-keys": "createApiKeyOfServiceAccount",
        "POST /users/{user_id}/api-keys": "createApiKeyOfUser",
        "GET /users/{user_id}/api-keys": "listApiKeysOfUser",
        "GET /users/{user_id}/api-keys/{key_id}": "readApiKeyOfUser",
        "PATCH /users/{user_id}/api-keys/{key_id}": "changeApiKeyOfUser",
        "DELETE /users/{user_id}/api-keys/{key_id}": "revokeApiKeyOfUser",
        "POST /users/{user_id}/api-keys/{key_id}/rotate": "rotateApiKeyOfUser",
        "POST /users/{user_id}/api-keys/{key_id}/suspend": "suspendApiKeyOfUser",
        "POST /users/{user_id}/api-keys/{key_id}/resume": "resumeApiKeyOfUser",
        "DELETE /users/{user_id}/personal-data": "erasePersonalData",
        "GET /verify": "verifyToken",
        "POST /revoke": "revokeToken",
        "POST /introspect": "introspectToken",
        "GET /revocations": "listRevocations",
        "GET /audit": "readAuditLog",
        "GET /users": "listUsers",
        "POST /users": "createUser",
        "POST /service-accounts": "createServiceAccount",
        "GET /users/{user_id}": "readUser",
        "PATCH /users/{user_id}": "changeUser",
        "GET /users/{user_id}/groups": "listGroupsOfUser",
        "GET /groups": "listGroups",
        "POST /groups": "createGroup",
        "GET /groups/{name}": "readGroup",
        "PATCH /groups/{name}": "changeGroup",
        "DELETE /groups/{name}": "removeGroup",
        "GET /groups/{name}/members": "listMembersOfGroup",
        "PUT /groups/{name}/members/{user_id}": "addMemberToGroup",
        "DELETE /groups/{name}/members/{user_id}": "removeMemberFromGroup",
        "GET /me/audit": "readOwnAuditLog",
        "POST /me/email-verification": "sendEmailVerification",
        "POST /me/email-verification/confirm": "confirmEmail",
        "POST /password-resets": "requestPasswordReset",
        "POST /password-resets/confirm": "resetPassword",
        "POST /users/{user_id}/password-reset": "forcePasswordReset",
        "GET /users/{user_id}/password-reset": "readForcedPasswordReset",
        "POST /users/{user_id}/password-reset/resend": "resendForcedPasswordReset",
        "GET /invitations": "listInvitations",
        "POST /invitations": "createInvitation",
        "DELETE /invitations/{invitation_id}": "takeBackInvitation",
        "POST /invitations/{invitation_id}/resend": "resendInvitation",
        "GET /webhooks": "listWebhooks",
        "POST /webhooks": "createWebhook",
        "GET /webhooks/{webhook_id}": "readWebhook",
        "PATCH /webhooks/{webhook_id}": "changeWebhook",
        "DELETE /webhooks/{webhook_id}": "removeWebhook",
        "POST /webhooks/{webhook_id}/rotate-secret": "rotateWebhookSecret",
        "POST /webhooks/{webhook_id}/test": "testWebhook",
        "GET /webhooks/{webhook_id}/deliveries": "listWebhookDeliveries",
        "POST /webhooks/{webhook_id}/retry": "retryWebhookDeliveries",
        "GET /.well-known/jwks.json": "listPublicKeys",
        "GET /.well-known/oauth-authorization-server": "readServerMetadata",
        "GET /healthz": "liveness",
        "GET /readyz": "readiness",
    }


def test_the_groups_of_operations_come_in_the_order_in_which_people_need_them() -> None:
    described = {tag["name"]: tag["description"] for tag in DOCUMENT["tags"]}
    assert list(described) == [
        "Registration and login",
        "My account",
        "My sessions",
        "My second factor",
        "My API keys",
        "Tokens",
        "Verification",
        "Administration",
        "Groups",
        "Webhooks",
        "Health",
    ]
    assert all(description.endswith(".") for description in described.values())
    assert {operation["tags"][0] for operation in OPERATIONS.values()} == set(described)


def test_registration_and_login_are_the_first_operations_of_their_group() -> None:
    tag = "Registration and login"
    calls = [call for call, operation in OPERATIONS.items() if operation["tags"] == [tag]]
    assert calls[:2] == ["POST /register-user", "POST /token"]


@for_each_operation
def test_an_operation_says_what_it_is(operation: dict[str, Any]) -> None:
    assert len(operation["tags"]) == 1
    assert operation["summary"]
    assert operation["description"]


@for_each_operation
def test_every_documented_refusal_has_examples_of_the_one_shape(operation: dict[str, Any]) -> None:
    for status, refusal in refusals_of(operation).items():
        body = refusal["content"]["application/json"]
        assert body["schema"] == {"$ref": "#/components/schemas/ErrorBody"}
        assert body["examples"]
        for error, example in body["examples"].items():
            assert re.fullmatch(rf"{example['value']['error']}(_\d)?", error)
            assert example["value"]["message"] == example["summary"]
            ERROR_BODY.validate(example["value"])
        if status == "401":
            assert "WWW-Authenticate" in refusal["headers"]
        if status == "503":
            assert "Retry-After" in refusal["headers"]


def test_all_grants_are_documented_with_an_example() -> None:
    schema = SCHEMAS["TokenRequest"]
    members = {"username", "password", "grant_type", "refresh_token", "subject_token", "client_id"}
    assert members <= set(schema["properties"])
    assert len(schema["examples"]) == 4


def test_the_example_of_a_registration_is_one() -> None:
    schema = {**DOCUMENT, "$ref": "#/components/schemas/NewUser"}
    examples = SCHEMAS["NewUser"]["examples"]
    assert examples
    for example in examples:
        jsonschema.validate(example, schema, format_checker=jsonschema.FormatChecker())


@for_each({name: name for name in SCHEMAS})
def test_the_examples_of_a_schema_are_valid(name: str) -> None:
    schema = {"$ref": f"#/components/schemas/{name}", "components": DOCUMENT["components"]}
    for example in SCHEMAS[name].get("examples", []):
        jsonschema.validate(example, schema, jsonschema.Draft202012Validator)


def test_the_lengths_of_a_typed_code_are_documented() -> None:
    schemas = SCHEMAS
    members = {
        "PasswordReset": "code",
        "EmailConfirmation": "code",
        "OtpConfirmation": "otp",
        "PasswordAndOtp": "otp",
    }
    lengths = {}
    for name, member in members.items():
        schema = schemas[name]["properties"][member]
        lengths[name] = (schema["minLength"], schema["maxLength"])
    assert lengths == {
        "PasswordReset": (16, 64),
        "EmailConfirmation": (16, 64),
        "OtpConfirmation": (6, 64),
        "PasswordAndOtp": (6, 64),
    }


def test_two_errors_of_one_code_keep_an_example_each() -> None:
    refusal = refusals_of(OPERATIONS["POST /token"])["400"]
    examples = refusal["content"]["application/json"]["examples"].values()
    messages = {example["value"]["message"] for example in examples}
    assert {"Invalid credentials", "Invalid refresh token"} <= messages


def test_the_example_of_a_taken_name_has_the_id_of_its_user() -> None:
    conflict = refusals_of(OPERATIONS["POST /register-user"])["409"]
    example = conflict["content"]["application/json"]["examples"]["user_exists"]["value"]
    assert example == {"message": "User already exists", "error": "user_exists", "user_id": 4}


@for_each_operation
def test_an_operation_documents_422_if_its_request_can_be_invalid(
    operation: dict[str, Any],
) -> None:
    unchecked = {"type", "title", "examples", "description"}
    schemas = [parameter["schema"] for parameter in operation.get("parameters", [])]
    is_checked = any(set(schema) - unchecked or schema["type"] != "string" for schema in schemas)
    takes_json = "application/json" in operation.get("requestBody", {}).get("content", {})
    assert ("422" in operation["responses"]) == (is_checked or takes_json)


def test_errors_that_every_call_can_return_are_documented_once_in_the_introduction() -> None:
    for error in COMMON_ERRORS:
        assert (
            f"- {error.status} `{error.error}`: {error.message}\n"
            in DOCUMENT["info"]["description"]
        )
        documented = {
            call
            for call, operation in OPERATIONS.items()
            if str(error.status) in operation["responses"]
        }
        assert documented == ({"GET /readyz"} if error.status == 503 else set())


@on_sqlite
async def test_a_protected_operation_names_the_scope_that_it_needs(
    client_with_a_user: AsyncClient, subtests: pytest.Subtests
) -> None:
    """Lancelot has no scope, so he is refused exactly where the document names one."""
    headers = bearer(await log_in(client_with_a_user, LANCELOT))
    for call, operation in OPERATIONS.items():
        if not operation["security"]:
            continue
        with subtests.test(call):
            method, path = re.sub(r"{\w+}", "1", call).split(" ")
            response = await client_with_a_user.request(method, path, headers=headers)
            if response.is_success and method != "GET":  # it may have revoked the token
                headers = bearer(await log_in(client_with_a_user, LANCELOT))
            scopes = operation["security"][0]["Password"]
            if response.status_code == 403 and response.json()["error"] == "insufficient_scope":
                assert scopes == ["admin"]
                assert 'scope="admin"' in response.headers["WWW-Authenticate"]
                assert operation["description"].endswith("access token with the scope `admin`.")
            else:
                assert scopes == []
                assert operation["description"].endswith("Requires an access token.")
            assert set(scopes) <= set(PASSWORD_FLOW["scopes"])


FOR_ADMINISTRATORS = {
    call: (call, operation)
    for call, operation in OPERATIONS.items()
    if operation["security"] == [{"Password": ["admin"]}]
}


@for_each(FOR_ADMINISTRATORS)
def test_an_operation_for_administrators_documents_who_is_refused(
    case: tuple[str, dict[str, Any]],
) -> None:
    call, operation = case
    refused = operation["responses"]["403"]["description"]
    assert InsufficientScopeError.message in refused
    # An API key with the scope `admin` may only read.
    assert (LimitedTokenError.message in refused) == (not call.startswith("GET "))


def test_what_needs_a_token_says_so_and_nothing_else_does() -> None:
    assert {name for name, operation in OPERATIONS.items() if operation.get("security")} == {
        name for name, operation in OPERATIONS.items() if "missing_token" in json.dumps(operation)
    }


@pytest.fixture
async def client_with_a_user(client: AsyncClient) -> AsyncClient:
    """Arthur is the administrator, Lancelot is user 2, and Galahad has not registered."""
    assert await register(client, LANCELOT) == 2
    return client


JSON = {"headers": {"Content-Type": "application/json"}}
FORM = {"headers": {"Content-Type": "application/x-www-form-urlencoded"}}
NO_UTF_8 = {"content": b'"\xff"', **JSON}
TOO_DEEP = {"content": b"[" * 9_000, **JSON}
HALF_A_CHARACTER = {"content": json.dumps({**GALAHAD, "password": "\ud800"}), **JSON}
MANY_FIELDS = {"content": b"a=&" * 5_000, **FORM}
MAGIC = {**ARTHUR, "grant_type": "magic"}
WRONG = {**ARTHUR, "password": "wrong"}
HUGE = "x" * 20_000


REFUSALS: dict[str, tuple[str, Any, dict[str, Any], int]] = {
    "a taken name": ("POST /register-user", None, {"json": LANCELOT}, 409),
    "no members": ("POST /register-user", None, {"json": {}}, 422),
    "half of JSON": ("POST /register-user", None, {"content": b"{"}, 422),
    "JSON that is no UTF-8": ("POST /register-user", None, NO_UTF_8, 422),
    "JSON too deep": ("POST /register-user", None, TOO_DEEP, 422),
    "half a character": ("POST /register-user", None, HALF_A_CHARACTER, 422),
    "a huge registration": ("POST /register-user", None, {"content": HUGE}, 413),
    "half a form": ("POST /token", None, {"data": {"username": "x"}}, 400),
    "an unknown grant": ("POST /token", None, {"data": MAGIC}, 400),
    "a form with a wrong password": ("POST /token", None, {"data": WRONG}, 400),
    "a form of thousands of fields": ("POST /token", None, MANY_FIELDS, 400),
    "a wrong password": ("POST /token", None, {"json": WRONG}, 401),
    "a huge login": ("POST /token", None, {"content": HUGE}, 413),
    "no media type": ("POST /token", None, {"content": b"x"}, 415),
    "no JSON object": ("POST /token", None, {"json": []}, 422),
    "no token": ("GET /token_status/x", None, {}, 401),
    "a huge token in the path": (f"GET /token_status/{HUGE}", None, {}, 414),
    "read without a token": ("GET /me", None, {}, 401),
    "read with a forged token": ("GET /me", "forged", {}, 401),
    "read with a huge token": ("GET /me", HUGE, {}, 431),
    "enable without a token": ("PUT /toggle-user-permission/2/1", None, {}, 401),
    "enable as a user": ("PUT /toggle-user-permission/2/1", LANCELOT, {}, 403),
    "enable an unknown user": ("PUT /toggle-user-permission/77/1", ARTHUR, {}, 404),
    "enable with 2": ("PUT /toggle-user-permission/2/2", ARTHUR, {}, 422),
    "remove without a token": ("DELETE /remove-user/2", None, {}, 401),
    "remove as a user": ("DELETE /remove-user/2", LANCELOT, {}, 403),
    "remove an unknown user": ("DELETE /remove-user/77", ARTHUR, {}, 404),
    "remove an id above 64 bits": (f"DELETE /remove-user/{2**63}", ARTHUR, {}, 422),
    "a huge header": ("GET /healthz", HUGE, {}, 431),
}


@on_sqlite
async def test_the_refusals_of_the_service_are_documented(
    client_with_a_user: AsyncClient, subtests: pytest.Subtests
) -> None:
    for case, (call, caller, sent, status) in REFUSALS.items():
        with subtests.test(case):
            method, path = call.split(" ")
            headers = dict(sent.get("headers", {}))
            if caller is not None:
                is_token = isinstance(caller, str)
                headers |= bearer(caller if is_token else await log_in(client_with_a_user, caller))
            response = await client_with_a_user.request(
                method, path, **{**sent, "headers": headers}
            )
            assert response.status_code == status, response.text
            ERROR_BODY.validate(response.json())
            assert_documented(response)


def schemas_in(node: Any, seen: frozenset[str] = frozenset()) -> Iterator[dict[str, Any]]:
    """Every object of a part of the document, with all that it refers to."""
    if isinstance(node, list):
        for item in node:
            yield from schemas_in(item, seen)
    elif isinstance(node, dict):
        yield node
        name = str(node.get("$ref", "")).rpartition("/")[2]
        if name and name not in seen:
            yield from schemas_in(SCHEMAS[name], seen | {name})
        for key, value in node.items():
            if key not in {"example", "examples"}:
                yield from schemas_in(value, seen)


BODIES = {
    f"{name} as {media_type}": content["schema"]
    for name, operation in OPERATIONS.items()
    for media_type, content in operation.get("requestBody", {}).get("content", {}).items()
}


@for_each(BODIES)
def test_no_request_body_declares_a_default(schema: dict[str, Any]) -> None:
    """Generated clients send declared defaults, which would change members that a caller omits."""
    properties = [found.get("properties", {}) for found in schemas_in(schema)]
    assert any(properties)
    for found in schemas_in(schema):
        # The properties themselves are an object too, whose keys are the members' names.
        assert "default" not in found or found in properties


@for_each({name: schema for name, schema in BODIES.items() if name.startswith("PATCH ")})
def test_every_optional_member_of_a_change_can_be_null(schema: dict[str, Any]) -> None:
    (change,) = (found for found in schemas_in(schema) if "properties" in found)
    optional = set(change["properties"]) - set(change.get("required", ()))
    assert optional
    for name in optional:
        assert {"type": "null"} in change["properties"][name]["anyOf"]


@on_sqlite
async def test_the_document_is_rendered_once(
    app: FastAPI, client: AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    documents = iter([DOCUMENT])  # a second call would fail
    monkeypatch.setattr(app, "openapi", lambda: next(documents))
    for _ in range(2):
        assert (await client.get("/openapi.json")).json()["paths"].keys() == DOCUMENT[
            "paths"
        ].keys()
