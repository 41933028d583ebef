"""Registering: the answers to the letter, which names are one name, what is refused.

What is refused leaves nothing behind and is never repeated in the answer.
"""

import asyncio
import json
import unicodedata

import pytest
from httpx import AsyncClient, Response

from tests.conftest import on_sqlite
from tests.people import LANCELOT, assert_problem, bearer, log_in, register, token_holds


async def send(client: AsyncClient, person: object) -> Response:
    """Escaped JSON, which alone can carry half of a surrogate pair."""
    return await client.post(
        "/register-user",
        content=json.dumps(person),
        headers={"Content-Type": "application/json"},
    )


async def test_a_registration_and_its_repetition_answer_to_the_letter(client: AsyncClient) -> None:
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


@pytest.mark.parametrize(
    ("first", "second"),
    [
        pytest.param("Lancelot", "lANCELOT", id="whatever the case"),
        pytest.param(
            "lancelot", "\N{FULLWIDTH LATIN SMALL LETTER L}ancelot", id="a full-width letter"
        ),
        pytest.param("griﬂet", "griflet", id="ligatures"),
        pytest.param("\N{BLACK-LETTER CAPITAL H}ector", "hector", id="black letters"),
        pytest.param("Pellès", unicodedata.normalize("NFD", "Pellès"), id="composed or not"),
        pytest.param("weiß", "WEISS", id="sharp s and double s"),
        pytest.param("ΛΑΝΣΕΛΟΣ", "λανσελος", id="final sigma"),
        pytest.param("king", "\N{KELVIN SIGN}ing", id="the Kelvin sign"),
    ],
)
async def test_names_that_read_alike_are_one_name(
    client: AsyncClient, first: str, second: str
) -> None:
    user_id = await register(client, {**LANCELOT, "username": first})
    response = await send(client, {**LANCELOT, "username": second})
    assert assert_problem(response, 409, "user_exists")["user_id"] == user_id


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
        "created_at": "2026-11-23T12:00:00Z",
    }


@on_sqlite
async def test_members_that_nobody_asked_for_change_nothing(client: AsyncClient) -> None:
    eager = {**LANCELOT, "is_admin": True, "is_enabled": False, "id": 1, "horse": ["berbiec"]}
    assert (await send(client, eager)).status_code == 201
    profile = await client.get("/me", headers=bearer(await log_in(client, LANCELOT)))
    assert profile.json()["is_admin"] is False


@on_sqlite
@pytest.mark.parametrize(
    ("member", "value"),
    [
        pytest.param("username", "", id="a name that is empty"),
        pytest.param("username", "lancelot" * 8 + "!", id="a name of 65 characters"),
        pytest.param("username", "ﬁ" * 33, id="a name of 66 once normalised"),
        pytest.param("username", " lancelot", id="a name after a space"),
        pytest.param("username", "lancelot ", id="a name before a space"),
        pytest.param("username", "\u00a0lancelot", id="a name after a no-break space"),
        pytest.param("username", "lance\0lot", id="a name with NUL"),
        pytest.param("username", "lance\nlot", id="a name with a line break"),
        pytest.param("username", "lance\x1blot", id="a name with an escape"),
        pytest.param("username", "lance\x85lot", id="a name with a C1 control"),
        pytest.param("username", "lance\u2028lot", id="a name with a line separator"),
        pytest.param("username", "lance\u200blot", id="a name with a zero-width space"),
        pytest.param("username", "lance\u202elot", id="a name that turns the text around"),
        pytest.param("username", "lance\u00adlot", id="a name with a soft hyphen"),
        pytest.param("username", "lancelot\ufe0f", id="a name with a variation selector"),
        pytest.param("username", "lancelot\u3164", id="a name with a Hangul filler"),
        pytest.param("username", "lancelot\U000e0041", id="a name with a tag character"),
        pytest.param("username", "lance\ue000lot", id="a name with a private character"),
        pytest.param("username", "lance\u0378lot", id="a name with an unassigned character"),
        pytest.param("username", "lance\ud800lot", id="a name with half a surrogate pair"),
        pytest.param("username", 1485, id="a name that is a number"),
        pytest.param("username", None, id="a name that is null"),
        pytest.param("email", "lancelot", id="an address without a host"),
        pytest.param("email", "@camelot.example", id="an address without a person"),
        pytest.param("email", "lancelot@camelot", id="an address without a domain"),
        pytest.param("email", "lancelot@localhost", id="an address on this machine"),
        pytest.param("email", "lancelot@[192.0.2.1]", id="an address with a bare IP"),
        pytest.param("email", "lance lot@camelot.example", id="an address with a space"),
        pytest.param("email", "lance@lot@camelot.example", id="an address with two hosts"),
        pytest.param("email", "Lance <lancelot@camelot.example>", id="an address with a name"),
        pytest.param("email", "lancelot@camelot.example\nBcc: x", id="an address with a header"),
        pytest.param("email", "=?utf-8?b?eA0KQmNj?=@camelot.example", id="an address in code"),
        pytest.param("email", "lancelot@camelot.example\0", id="an address with NUL"),
        pytest.param("email", "lance\ud800lot@camelot.example", id="an address with half a pair"),
        pytest.param("email", "l@" + "camelot." * 32 + "example", id="an address of 265"),
        pytest.param("email", None, id="an address that is null"),
        pytest.param("password", "", id="a password that is empty"),
        pytest.param("password", "excalibur" * 14 + "!!!", id="a password of 129 characters"),
        pytest.param("password", "exca\0libur", id="a password with NUL"),
        pytest.param("password", "exca\ud800libur", id="a password with half a surrogate pair"),
        pytest.param("password", 123456, id="a password that is a number"),
        pytest.param("password", ["excalibur"], id="a password that is a list"),
    ],
)
async def test_a_refusal_names_the_member_and_repeats_nothing(
    client: AsyncClient, member: str, value: object
) -> None:
    response = await send(client, {**LANCELOT, member: value})
    body = assert_problem(response, 422, "invalid_request")
    assert [problem["field"] for problem in body["fields"]] == [member]
    for sent in ("lance", "camelot", "excalibur", "123456", "1485", LANCELOT["password"], "ﬁ"):
        assert sent not in response.text.lower()
    await register(client, LANCELOT)


@on_sqlite
@pytest.mark.parametrize("member", ["username", "password", "email"])
async def test_every_member_is_needed(client: AsyncClient, member: str) -> None:
    person = {name: value for name, value in LANCELOT.items() if name != member}
    body = assert_problem(await send(client, person), 422, "invalid_request")
    assert [problem["field"] for problem in body["fields"]] == [member]


@on_sqlite
@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b'{"username": "lancelot"', id="broken JSON"),
        pytest.param(b'["lancelot"]', id="a list"),
        pytest.param(b'"lancelot"', id="a text"),
        pytest.param(b'{"username": "lance\xfflot"}', id="no UTF-8"),
        pytest.param(b"[" * 9_000, id="JSON of endless depth"),
        pytest.param(b"username=lancelot&password=excalibur", id="a form"),
    ],
)
async def test_a_body_must_be_a_json_object(client: AsyncClient, content: bytes) -> None:
    headers = {"Content-Type": "application/json"}
    response = await client.post("/register-user", content=content, headers=headers)
    assert assert_problem(response, 422, "invalid_request")["fields"]
    assert "lance" not in response.text


@on_sqlite
@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"username": "l" * 64}, id="a name of 64 characters"),
        pytest.param({"username": "l"}, id="a name of one"),
        pytest.param({"username": "ランスロット 🏰"}, id="a name in any script"),
        pytest.param({"email": "lance.lot+grail@camelot.example"}, id="an address with a tag"),
        pytest.param({"email": "ланселот@камелот.рф"}, id="an address in any script"),
        pytest.param({"password": "x"}, id="a password of one character"),
        pytest.param({"password": "x" * 128}, id="a password of 128 characters"),
        pytest.param({"password": "🏰" * 128}, id="a password of 512 bytes"),
        pytest.param({"password": "ﷺ" * 128}, id="a password that normalisation lengthens"),
        pytest.param({"password": " \t\n "}, id="a password of nothing but space"),
        pytest.param({"password": "\u202e秘密\x07\u200b"}, id="a password of any characters"),
    ],
)
async def test_whatever_is_accepted_can_log_in(client: AsyncClient, change: dict[str, str]) -> None:
    person = {**LANCELOT, **change}
    await register(client, person)
    assert await token_holds(client, await log_in(client, person))


@pytest.mark.parametrize(("domain", "status"), [("d" * 53, 201), ("d" * 54, 422)])
async def test_an_address_has_room_in_the_form_in_which_it_is_compared(
    client: AsyncClient, domain: str, status: int
) -> None:
    """This letter is three of them once it is folded."""
    response = await send(client, {**LANCELOT, "email": "ΐ" * 64 + f"@{domain}.example"})
    assert response.status_code == status
    if status == 422:
        (field,) = assert_problem(response, 422, "invalid_request")["fields"]
        assert field["field"] == "email"


@on_sqlite
async def test_the_last_of_128_characters_counts(client: AsyncClient) -> None:
    await register(client, {**LANCELOT, "password": "x" * 128})
    almost = {**LANCELOT, "password": "x" * 127 + "y"}
    assert_problem(await client.post("/token", json=almost), 401, "invalid_grant")


async def test_of_fifty_simultaneous_registrations_one_succeeds(client: AsyncClient) -> None:
    spellings = [LANCELOT["username"], LANCELOT["username"].upper()] * 25
    responses = await asyncio.gather(
        *(send(client, {**LANCELOT, "username": spelling}) for spelling in spellings)
    )
    assert sorted(response.status_code for response in responses) == [201] + [409] * 49
    assert len({response.json()["user_id"] for response in responses}) == 1
