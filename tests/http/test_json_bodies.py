"""JSON is read by the same rules at every call, and a body in another format gets a hint."""

import json
from typing import Any

import pytest
from httpx import AsyncClient, Response

from tests.support.markers import on_sqlite
from tests.support.users import ARTHUR, LANCELOT, assert_problem, bearer, log_in, register

JSON = "application/json"
FORM = "application/x-www-form-urlencoded"
PATHS = ("/token", "/register-user")


async def send(
    client: AsyncClient, path: str, content: bytes, content_type: str | None = JSON
) -> Response:
    headers = {"Content-Type": content_type} if content_type else {}
    return await client.post(path, content=content, headers=headers)


ACCEPTED: dict[str, tuple[bytes, str]] = {
    "plain": (json.dumps(LANCELOT).encode(), JSON),
    "a byte order mark": (b"\xef\xbb\xbf" + json.dumps(LANCELOT).encode(), JSON),
    "UTF-16": (json.dumps(LANCELOT).encode("utf-16"), JSON),
    "UTF-16 without a mark": (json.dumps(LANCELOT).encode("utf-16-le"), JSON),
    "+json": (json.dumps(LANCELOT).encode(), "application/vnd.camelot+json; charset=utf-8"),
    "capitals": (json.dumps(LANCELOT).encode(), "Application/JSON"),
    "null": (
        json.dumps({**LANCELOT, "invitation": None, "scope": None, "otp": None}).encode(),
        JSON,
    ),
    "empty": (
        json.dumps({**LANCELOT, "invitation": "", "otp": "", "grant_type": ""}).encode(),
        JSON,
    ),
    "a member twice": (b'{"username": "x", ' + json.dumps(LANCELOT).encode()[1:], JSON),
}


@on_sqlite
@pytest.mark.parametrize("path", PATHS)
async def test_what_one_call_accepts_all_accept(
    client: AsyncClient, path: str, subtests: pytest.Subtests
) -> None:
    user_id = await register(client, LANCELOT)
    for case, (content, content_type) in ACCEPTED.items():
        with subtests.test(case):
            response = await send(client, path, content, content_type)
            if path == "/token":
                assert response.status_code == 200, response.text
            else:
                assert assert_problem(response, 409, "user_exists")["user_id"] == user_id


REFUSED: dict[str, bytes] = {
    "no JSON": b"username",
    "cut off": b'{"username": ',
    "Latin-1": '{"username": "zoë"}'.encode("latin-1"),
    "half of UTF-16": b"\xff\xfe{",
    "a list": b"[]",
    "a text": b'"username"',
    "null": b"null",
    "nested without end": b"[" * 10_000,
    "a number without end": b'{"username": ' + b"9" * 10_000 + b"}",
    "half a surrogate pair": b'{"username": "\\ud800", "password": "x", "email": "a@b.example"}',
    "not a number": b'{"username": NaN, "password": "x"}',
    "no member": b"{}",
    "null members": b'{"username": null, "password": null, "email": null}',
    "empty members": b'{"username": "", "password": "", "email": ""}',
}


@on_sqlite
@pytest.mark.parametrize("path", PATHS)
async def test_what_one_call_refuses_all_refuse(
    client: AsyncClient, path: str, subtests: pytest.Subtests
) -> None:
    for case, content in REFUSED.items():
        with subtests.test(case):
            body = assert_problem(await send(client, path, content), 422, "invalid_request")
            assert body["fields"]
            if "member" in case:
                messages = {problem["message"] for problem in body["fields"]}
                assert messages == {"Field required"}


@on_sqlite
async def test_an_empty_member_of_a_change_removes_the_value(client: AsyncClient) -> None:
    user_id = await register(client, LANCELOT)
    headers = bearer(await log_in(client, ARTHUR))
    changes: list[tuple[dict[str, Any], str | None]] = [
        ({"email": None}, LANCELOT["email"]),
        ({}, LANCELOT["email"]),
        ({"email": ""}, None),
    ]
    for change, email in changes:
        response = await client.patch(f"/users/{user_id}", json=change, headers=headers)
        assert response.json()["email"] == email


@on_sqlite
async def test_json_without_its_header_and_a_form_get_a_hint(client: AsyncClient) -> None:
    person = json.dumps(LANCELOT).encode()
    for content_type in (FORM, "text/plain", None):
        body = assert_problem(
            await send(client, "/register-user", person, content_type), 422, "invalid_request"
        )
        [problem] = body["fields"]
        assert problem["field"] == "body"
        assert problem["message"].startswith("The body is JSON")
        assert JSON in problem["message"]
    body = assert_problem(
        await send(client, "/register-user", b"username=x&password=excalibur", FORM),
        422,
        "invalid_request",
    )
    assert body["fields"] == [
        {"field": "body", "message": f"Must be a JSON object, with Content-Type {JSON}"}
    ]
    body = assert_problem(
        await send(client, "/token", person, "text/plain"), 415, "unsupported_media_type"
    )
    assert JSON in body["message"]
