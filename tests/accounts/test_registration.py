"""Registration: the responses of the contract, which names are the same, and what is rejected.

A rejected registration stores nothing, and the response does not repeat what was sent.
"""

import asyncio
import json
import unicodedata

import pytest
from httpx import AsyncClient, Response

from tests.support.markers import on_postgresql, on_sqlite
from tests.support.users import (
    GALAHAD,
    LANCELOT,
    assert_problem,
    bearer,
    log_in,
    register,
)


async def send(client: AsyncClient, person: object) -> Response:
    """As escaped JSON, the only form that can contain half of a surrogate pair."""
    return await client.post(
        "/register-user",
        content=json.dumps(person),
        headers={"Content-Type": "application/json"},
    )


async def test_a_registration_and_its_repetition_get_the_responses_of_the_contract(
    client: AsyncClient,
) -> None:
    created = await client.post("/register-user", json=LANCELOT)
    user_id = created.json()["user_id"]
    assert created.status_code == 201
    assert created.json() == {"message": "User created successfully", "user_id": user_id}
    again = await client.post("/register-user", json=LANCELOT)
    assert assert_problem(again, 409, "user_exists") == {
        "message": "User already exists",
        "error": "user_exists",
        "user_id": user_id,
    }


NAMES_THAT_FOLD_ALIKE = {
    "any case": ("Lancelot", "lANCELOT"),
    "a full-width letter": ("galahad", "\N{FULLWIDTH LATIN SMALL LETTER G}alahad"),
    "ligatures": ("griﬂet", "griflet"),
    "black letters": ("\N{BLACK-LETTER CAPITAL H}ector", "hector"),
    "composed or not": ("Pellès", unicodedata.normalize("NFD", "Pellès")),
    "sharp s and double s": ("weiß", "WEISS"),
    "final sigma": ("ΛΑΝΣΕΛΟΣ", "λανσελος"),
    "the Kelvin sign": ("king", "\N{KELVIN SIGN}ing"),
}


@on_sqlite
async def test_names_that_fold_alike_are_one_name(
    client: AsyncClient, subtests: pytest.Subtests
) -> None:
    for case, (first, second) in NAMES_THAT_FOLD_ALIKE.items():
        with subtests.test(case):
            user_id = await register(client, {**LANCELOT, "username": first})
            response = await send(client, {**LANCELOT, "username": second})
            assert assert_problem(response, 409, "user_exists")["user_id"] == user_id


@on_sqlite
async def test_a_profile_shows_the_name_as_it_was_typed(client: AsyncClient) -> None:
    typed = "\N{FULLWIDTH LATIN CAPITAL LETTER L}ancelot du LAC"
    person = {**LANCELOT, "username": typed, "email": "Lancelot@CAMELOT.example"}
    user_id = await register(client, person)
    response = await client.get("/me", headers=bearer(await log_in(client, person)))
    assert response.json() == {
        "id": user_id,
        "username": typed,
        "email": "Lancelot@camelot.example",  # a host name has no case
        "email_verified": False,
        "is_admin": False,
        "groups": [],
        "kind": "person",
        "created_at": "2026-11-23T12:00:00Z",
    }


@on_sqlite
async def test_unknown_members_change_nothing(client: AsyncClient) -> None:
    eager = {**LANCELOT, "is_admin": True, "is_enabled": False, "id": 1, "horse": ["berbiec"]}
    assert (await send(client, eager)).status_code == 201
    profile = await client.get("/me", headers=bearer(await log_in(client, LANCELOT)))
    assert profile.json()["is_admin"] is False


REFUSED = {
    "a name that is empty": ("username", ""),
    "a name of 65 characters": ("username", "lancelot" * 8 + "!"),
    "a name of 66 once normalised": ("username", "ﬁ" * 33),
    "a name after a space": ("username", " lancelot"),
    "a name before a space": ("username", "lancelot "),
    "a name after a no-break space": ("username", "\u00a0lancelot"),
    "a name with NUL": ("username", "lance\0lot"),
    "a name with a line break": ("username", "lance\nlot"),
    "a name with an escape": ("username", "lance\x1blot"),
    "a name with a C1 control": ("username", "lance\x85lot"),
    "a name with a line separator": ("username", "lance\u2028lot"),
    "a name with a zero-width space": ("username", "lance\u200blot"),
    "a name that turns the text around": ("username", "lance\u202elot"),
    "a name with a soft hyphen": ("username", "lance\u00adlot"),
    "a name with a variation selector": ("username", "lancelot\ufe0f"),
    "a name with a Hangul filler": ("username", "lancelot\u3164"),
    "a name with a Braille blank": ("username", "lancelot\u2800"),
    "a name with a combining mark first": ("username", "\u0301lancelot"),
    "a name with a tag character": ("username", "lancelot\U000e0041"),
    "a name with a private character": ("username", "lance\ue000lot"),
    "a name with an unassigned character": ("username", "lance\u0378lot"),
    "a name with half a surrogate pair": ("username", "lance\ud800lot"),
    "a name that is a number": ("username", 1485),
    "a name that is null": ("username", None),
    "an address without a host": ("email", "lancelot"),
    "an address without a person": ("email", "@camelot.example"),
    "an address without a domain": ("email", "lancelot@camelot"),
    "an address on this machine": ("email", "lancelot@localhost"),
    "an address with a bare IP": ("email", "lancelot@[192.0.2.1]"),
    "an address with a space": ("email", "lance lot@camelot.example"),
    "an address with two hosts": ("email", "lance@lot@camelot.example"),
    "an address with a name": ("email", "Lance <lancelot@camelot.example>"),
    "an address with a header": ("email", "lancelot@camelot.example\nBcc: x"),
    "an address in code": ("email", "=?utf-8?b?eA0KQmNj?=@camelot.example"),
    "an address with NUL": ("email", "lancelot@camelot.example\0"),
    "an address with half a pair": ("email", "lance\ud800lot@camelot.example"),
    "an address of 265": ("email", "l@" + "camelot." * 32 + "example"),
    "an address that is null": ("email", None),
    "a password that is empty": ("password", ""),
    "a password of 129 characters": ("password", "excalibur" * 14 + "!!!"),
    "a password with NUL": ("password", "exca\0libur"),
    "a password with half a surrogate pair": ("password", "exca\ud800libur"),
    "a password that is a number": ("password", 123456),
    "a password that is a list": ("password", ["excalibur"]),
}


@on_sqlite
async def test_an_error_names_the_member_and_does_not_repeat_its_value(
    client: AsyncClient, subtests: pytest.Subtests
) -> None:
    secrets = ("lance", "camelot", "excalibur", "123456", "1485", LANCELOT["password"], "ﬁ")
    for case, (member, value) in REFUSED.items():
        with subtests.test(case):
            response = await send(client, {**LANCELOT, member: value})
            body = assert_problem(response, 422, "invalid_request")
            assert [problem["field"] for problem in body["fields"]] == [member]
            for sent in secrets:
                assert sent not in response.text.lower()
    await register(client, LANCELOT)


@on_sqlite
async def test_every_member_is_required(client: AsyncClient, subtests: pytest.Subtests) -> None:
    for member in ("username", "password", "email"):
        with subtests.test(member):
            person = {name: value for name, value in LANCELOT.items() if name != member}
            body = assert_problem(await send(client, person), 422, "invalid_request")
            assert [problem["field"] for problem in body["fields"]] == [member]


INVALID_BODIES = {
    "nothing": b"",
    "broken JSON": b'{"username": "lancelot"',
    "a list": b'["lancelot"]',
    "a text": b'"lancelot"',
    "invalid UTF-8": b'{"username": "lance\xfflot"}',
    "deeply nested JSON": b"[" * 9_000,
    "a form": b"username=lancelot&password=excalibur",
}


@on_sqlite
async def test_a_body_must_be_a_json_object(client: AsyncClient, subtests: pytest.Subtests) -> None:
    headers = {"Content-Type": "application/json"}
    for case, content in INVALID_BODIES.items():
        with subtests.test(case):
            response = await client.post("/register-user", content=content, headers=headers)
            assert assert_problem(response, 422, "invalid_request")["fields"]
            assert "lance" not in response.text


ACCEPTED = {
    "a name of 64 characters": {"username": "l" * 64},
    "a name of one": {"username": "l"},
    "a name in any script": {"username": "ランスロット 🏰"},
    "an address with a tag": {"email": "lance.lot+grail@camelot.example"},
    "an address in any script": {"email": "ланселот@камелот.рф"},
    "a password of one character": {"password": "x"},
    "a password of 128 characters": {"password": "x" * 128},
    "a password of 512 bytes": {"password": "🏰" * 128},
    "a password that normalisation lengthens": {"password": "ﷺ" * 128},
    "a password of nothing but space": {"password": " \t\n "},
    "a password of any characters": {"password": "\u202e秘密\x07\u200b"},
}


@on_sqlite
async def test_every_accepted_registration_can_log_in(
    client: AsyncClient, subtests: pytest.Subtests
) -> None:
    for case, change in ACCEPTED.items():
        with subtests.test(case):
            person = {**LANCELOT, "username": case, **change}
            await register(client, person)
            assert await log_in(client, person)


@on_postgresql
async def test_an_address_fits_its_column_after_folding(client: AsyncClient) -> None:
    """This letter becomes three when it is folded. SQLite does not limit columns."""
    email = "ΐ" * 64 + "@{}.example"
    response = await send(client, {**LANCELOT, "email": email.format("d" * 53)})
    assert response.status_code == 201
    response = await send(client, {**GALAHAD, "email": email.format("d" * 54)})
    (field,) = assert_problem(response, 422, "invalid_request")["fields"]
    assert field["field"] == "email"


@on_sqlite
async def test_the_last_of_128_characters_counts(client: AsyncClient) -> None:
    await register(client, {**LANCELOT, "password": "x" * 128})
    almost = {**LANCELOT, "password": "x" * 127 + "y"}
    assert_problem(await client.post("/token", json=almost), 401, "invalid_grant")


async def test_one_of_8_simultaneous_registrations_succeeds(client: AsyncClient) -> None:
    spellings = [LANCELOT["username"], LANCELOT["username"].upper()] * 4
    responses = await asyncio.gather(
        *(send(client, {**LANCELOT, "username": spelling}) for spelling in spellings)
    )
    assert sorted(response.status_code for response in responses) == [201] + [409] * 7
    assert len({response.json()["user_id"] for response in responses}) == 1
