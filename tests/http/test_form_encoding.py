"""Forms are UTF-8 (RFC 6749, appendix B), and a refused one says what is wrong with it."""

import pytest
from httpx import AsyncClient, Response

from tests.support.markers import on_sqlite
from tests.support.users import LANCELOT, assert_problem, register

ZOE = {**LANCELOT, "username": "zoë", "password": "µ and ÿ"}
FORM = {"Content-Type": "application/x-www-form-urlencoded"}


async def send(client: AsyncClient, content: bytes | str, **headers: str) -> Response:
    return await client.post("/token", content=content, headers={**FORM, **headers})


UTF_8 = {
    "encoded": "username=zo%C3%AB&password=%C2%B5+and+%C3%BF",
    "as curl sends it": "username=zoë&password=µ and ÿ",
    "some of it encoded": "username=zo%c3%ab&password=µ%20and+%C3%BF",
}


async def test_a_form_is_read_as_utf_8(client: AsyncClient, subtests: pytest.Subtests) -> None:
    await register(client, ZOE)
    for case, form in UTF_8.items():
        with subtests.test(case):
            for charset in ("", "; charset=utf-8", "; charset=UTF-8"):
                sent = {"Content-Type": FORM["Content-Type"] + charset}
                assert (await send(client, form.encode(), **sent)).status_code == 200


NO_UTF_8 = {
    "Latin-1": b"username=zo\xeb&password=x",
    "Latin-1, encoded": b"username=zo%EB&password=x",
    "a byte of no character": b"username=x&password=%FF",
    "half a character": b"username=x&password=%C3",
    "a surrogate": b"username=x&password=%ED%A0%80",
    "in a name": b"username=x&password=y&%FF=z",
    "half of it encoded": b"username=x&password=\xc3%AB",
}


@on_sqlite
async def test_invalid_bytes_are_refused_and_count_as_no_failed_login(
    client: AsyncClient, subtests: pytest.Subtests
) -> None:
    for case, form in NO_UTF_8.items():
        with subtests.test(case):
            for _ in range(10):
                body = assert_problem(await send(client, form), 400, "invalid_request")
            message = "The form must be encoded in UTF-8"
            assert body["error_description"] == body["message"] == message


async def test_two_passwords_of_different_bytes_are_different(client: AsyncClient) -> None:
    await register(client, {**LANCELOT, "password": "\ufffd"})
    assert (await send(client, "username=lancelot&password=%EF%BF%BD")).status_code == 200
    assert (await send(client, "username=lancelot&password=%FE")).status_code == 400


REFUSED: dict[str, tuple[str, str]] = {
    "nothing": ("", "The parameter username is missing"),
    "no password": ("username=arthur", "The parameter password is missing"),
    "an empty password": ("username=arthur&password=", "The parameter password is missing"),
    "two": ("username=a&password=x&username=b", "The parameter username is repeated"),
    "a long name": (
        f"username={'a' * 65}&password=x",
        "username: String should have at most 64 characters",
    ),
    "no refresh token": ("grant_type=refresh_token", "The parameter refresh_token is missing"),
    "many": ("&".join(f"p{n}=x" for n in range(200)), "The form has too many parameters"),
    "JSON": (
        '{"username": "arthur", "password": "excalibur"}',
        "The body is JSON, but Content-Type says that it is a form",
    ),
    "two of a name that is none": (
        "Excal%20ibur=1&Excal%20ibur=2",
        "A parameter is missing, repeated or out of bounds",
    ),
}


@on_sqlite
async def test_a_refusal_names_the_parameter(
    client: AsyncClient, subtests: pytest.Subtests
) -> None:
    for case, (form, message) in REFUSED.items():
        with subtests.test(case):
            body = assert_problem(await send(client, form), 400, "invalid_request")
            assert body["error_description"] == body["message"] == message


@on_sqlite
async def test_a_call_that_takes_only_a_form_says_so(client: AsyncClient) -> None:
    answer = await client.post("/revoke", json={"token": "x"})
    body = assert_problem(answer, 415, "unsupported_media_type")
    assert "form" in body["message"]
    assert "application/x-www-form-urlencoded" in body["message"]
    assert "json" not in body["message"]
