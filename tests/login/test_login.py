"""Logins by JSON, as in the contract, and by form, as in RFC 6749.

A rejected login does not reveal whether the user exists, neither by its text nor by its cost.
"""

import base64
import json
import unicodedata
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import pytest
from fastapi import FastAPI
from httpx import AsyncClient, Response

from tests.support.markers import on_sqlite
from tests.support.settings import Clock
from tests.support.users import ARTHUR, GALAHAD, LANCELOT, assert_problem, bearer, log_in, register

FORM = "application/x-www-form-urlencoded"

Ask = Callable[[AsyncClient, Mapping[str, str]], Awaitable[Response]]


async def by_json(client: AsyncClient, fields: Mapping[str, str]) -> Response:
    return await client.post("/token", json=dict(fields))


async def by_form(client: AsyncClient, fields: Mapping[str, str]) -> Response:
    return await client.post("/token", data=dict(fields))


async def by_raw_form(client: AsyncClient, content: str) -> Response:
    return await client.post("/token", content=content, headers={"Content-Type": FORM})


def assert_refused(response: Response, ask: Ask) -> None:
    """Exactly the response of the contract, which differs for JSON and forms."""
    if ask is by_json:
        body = assert_problem(response, 401, "invalid_grant")
        assert body == {"error": "invalid_grant", "message": "Invalid credentials"}
        assert response.headers["www-authenticate"] == 'Bearer realm="hourpass"'
    else:
        body = assert_problem(response, 400, "invalid_grant")
        assert body == {
            "error": "invalid_grant",
            "error_description": "Invalid credentials",
            "message": "Invalid credentials",
        }
        assert "www-authenticate" not in response.headers


def assert_oauth_problem(response: Response, error: str) -> None:
    """RFC 6749, 5.2: a 400 that describes itself, and no challenge."""
    body = assert_problem(response, 400, error)
    assert body["error_description"] == body["message"]
    assert "www-authenticate" not in response.headers


def decoded(segment: str) -> dict[str, Any]:
    members: dict[str, Any] = json.loads(base64.urlsafe_b64decode(segment + "=="))
    return members


IMPOSSIBLE = {
    "with NUL": {"username": "lancelot\0"},
    "after a space": {"username": " lancelot"},
    "that normalization lengthens": {"username": "ﷺ" * 64},
    "that would be SQL": {"username": "' OR 1=1 --"},
    "with a password in other case": {"password": LANCELOT["password"].upper()},
}


async def test_the_response_to_a_login_is_that_of_the_contract(
    client: AsyncClient, subtests: pytest.Subtests
) -> None:
    await register(client, LANCELOT)
    with subtests.test("by JSON and by form"):
        for ask in (by_json, by_form):
            response = await ask(client, {"grant_type": "password", **LANCELOT})
            token = response.json()["token"]
            assert response.status_code == 200
            assert response.json() == {
                "token": token,
                "access_token": token,
                "token_type": "bearer",
                "expires_in": 3600,
            }
    with subtests.test("an equivalent spelling"):
        elaine = {"username": "Elaine", "password": "châtelaine", "email": "elaine@astolat.example"}
        await register(client, elaine)
        for change in (
            {"username": "ELAINE"},
            {"username": "\N{FULLWIDTH LATIN SMALL LETTER E}laine"},
            {"password": unicodedata.normalize("NFD", "châtelaine")},
        ):
            for ask in (by_json, by_form):
                assert (await ask(client, {**elaine, **change})).status_code == 200, change
    for case, change in IMPOSSIBLE.items():
        for ask in (by_json, by_form):
            with subtests.test(f"a name {case}, which belongs to no user", ask=ask.__name__):
                assert_refused(await ask(client, {**LANCELOT, **change}), ask)


@on_sqlite
async def test_a_token_has_the_claims_of_the_standards(client: AsyncClient, clock: Clock) -> None:
    user_id = await register(client, LANCELOT)
    header, payload, _ = (await log_in(client, LANCELOT)).split(".")
    members = decoded(header)
    assert members == {"alg": "ES256", "typ": "at+jwt", "kid": members["kid"]}
    assert members["kid"]
    claims = decoded(payload)
    assert claims["jti"]
    assert claims == {
        "iss": "http://localhost:8000",
        "aud": "ml-api",
        "sub": str(user_id),
        "iat": int(clock.now.timestamp()),
        "exp": int(clock.now.timestamp()) + 3600,
        "jti": claims["jti"],
        "preferred_username": "lancelot",
        "client_id": "hourpass",
        "auth_time": int(clock.now.timestamp()),
        "epoch": claims["epoch"],
    }
    _, again, _ = (await log_in(client, LANCELOT)).split(".")
    assert decoded(again)["jti"] != claims["jti"]


@on_sqlite
async def test_unknown_user_wrong_password_and_disabled_user_look_alike_and_cost_the_same(
    client: AsyncClient, app: FastAPI, arthurs_token: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await register(client, LANCELOT)
    disabled = await register(client, GALAHAD)
    await client.put(f"/toggle-user-permission/{disabled}/0", headers=bearer(arthurs_token))
    for username, password in (
        ("mordred", LANCELOT["password"]),
        (LANCELOT["username"], "knight of the chart"),
        (GALAHAD["username"], GALAHAD["password"]),
    ):
        for ask in (by_json, by_form):
            assert_refused(await ask(client, {"username": username, "password": password}), ask)
    verify, costs = app.state.services.passwords._verify_hash, []

    def noting(password: str, password_hash: str) -> bool:
        costs.append(password_hash.rsplit("$", 2)[0])
        return bool(verify(password, password_hash))

    monkeypatch.setattr(app.state.services.passwords, "_verify_hash", noting)
    await by_json(client, {"username": "mordred", "password": LANCELOT["password"]})
    await by_json(client, {**LANCELOT, "password": "knight of the chart"})
    await by_json(client, GALAHAD)
    assert costs == ["$argon2id$v=19$m=8,t=1,p=1"] * 3


ACCEPTED_FORMS = {
    "no grant_type": "username=arthur&password={}",
    "an empty grant_type": "grant_type=&username=arthur&password={}",
    "an empty scope": "grant_type=password&username=arthur&password={}&scope=",
    "a client_id": "username=arthur&password={}&client_id=book",
}


MALFORMED_FORMS = {
    "two names": "username=arthur&username=arthur&password=excalibur",
    "two passwords": "username=arthur&password=excalibur&password=x",
    "two grants": "grant_type=password&grant_type=password&username=arthur&password=excalibur",
    "no name": "password=excalibur",
    "an empty name": "username=&password=excalibur",
    "no password": "username=arthur",
    "an empty password": "username=arthur&password=",
    "a password of 135": "username=arthur&password=" + "excalibur" * 15,
    "a password with NUL": "username=arthur&password=exca%00libur",
    "nothing": "",
    "JSON": '{"username": "arthur", "password": "excalibur"}',
    "a thousand parameters": "&".join(f"excalibur{n}=" for n in range(1_001)),
}


MALFORMED_JSON = {
    "nothing": b"",
    "broken JSON": b'{"username": "arthur", "password": "excalibur"',
    "a list": b'["arthur", "excalibur"]',
    "null": b"null",
    "no UTF-8": b'{"username": "arthur", "password": "exca\xfflibur"}',
    "JSON of endless depth": b"[" * 9_000,
    "no password": b'{"username": "arthur"}',
    "no name": b'{"password": "excalibur"}',
    "a number": b'{"username": "arthur", "password": 123456}',
    "an empty password": b'{"username": "arthur", "password": ""}',
    "NUL": b'{"username": "arthur", "password": "exca\\u0000libur"}',
    "half a pair": b'{"username": "arthur", "password": "exca\\ud800libur"}',
    "a password of 135": b'{"username": "arthur", "password": "' + b"excalibur" * 15 + b'"}',
}


OTHER_MEDIA_TYPES = ["text/plain", "application/xml", "multipart/form-data; boundary=x", ""]


@on_sqlite
async def test_which_forms_json_and_media_types_are_understood(
    client: AsyncClient, subtests: pytest.Subtests
) -> None:
    for case, form in ACCEPTED_FORMS.items():
        with subtests.test("an imperfect form is accepted", case=case):
            response = await by_raw_form(client, form.format("once+and%20future+king"))
            assert response.status_code == 200
    for grant_type in ("implicit", "authorization_code", "PASSWORD"):
        with subtests.test("no other grant is supported", grant_type=grant_type):
            response = await by_form(client, {**ARTHUR, "grant_type": grant_type})
            assert_oauth_problem(response, "unsupported_grant_type")
    for case, form in MALFORMED_FORMS.items():
        with subtests.test("a malformed form is an invalid request", case=case):
            response = await by_raw_form(client, form)
            assert_oauth_problem(response, "invalid_request")
            assert "excalibur" not in response.text
    as_json = {"Content-Type": "application/json"}
    for case, content in MALFORMED_JSON.items():
        with subtests.test("malformed JSON is unprocessable", case=case):
            response = await client.post("/token", content=content, headers=as_json)
            assert assert_problem(response, 422, "invalid_request")["fields"]
            for sent in ("arthur", "exca", "123456"):
                assert sent not in response.text
    for media_type in OTHER_MEDIA_TYPES:
        with subtests.test("another media type", media_type=media_type):
            headers = {"Content-Type": media_type}
            response = await client.post("/token", content="x", headers=headers)
            assert_problem(response, 415, "unsupported_media_type")
    with subtests.test("a media type in any case, with a charset"):
        for media_type, body in (
            ("Application/JSON; charset=utf-8", json.dumps(ARTHUR)),
            (f"{FORM.upper()};charset=UTF-8", "username=arthur&password=once+and+future+king"),
        ):
            headers = {"Content-Type": media_type}
            response = await client.post("/token", content=body, headers=headers)
            assert response.status_code == 200


@on_sqlite
async def test_no_response_of_this_call_may_be_stored(client: AsyncClient) -> None:
    responses = {
        200: await by_json(client, ARTHUR),
        400: await by_form(client, LANCELOT),
        401: await by_json(client, LANCELOT),
        405: await client.get("/token"),
        413: await client.post("/token", content=b" " * 20_000),
        415: await client.post("/token", content=b"x"),
        422: await by_json(client, {}),
    }
    for status, response in responses.items():
        assert (response.status_code, response.headers["cache-control"]) == (status, "no-store")
