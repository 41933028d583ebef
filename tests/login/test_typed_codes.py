"""Codes of every kind are accepted as phones and word processors write them."""

import sys
import unicodedata
from collections.abc import Callable

import pytest
from httpx import AsyncClient
from pydantic import SecretStr, TypeAdapter, ValidationError

from app.credentials.second_factors.schemas import Otp
from app.security.one_time_codes.schemas import CodeText
from app.security.one_time_codes.text import parse_code
from tests.support.authenticator import enroll, log_in_with
from tests.support.markers import on_sqlite
from tests.support.settings import Clock
from tests.support.users import LANCELOT, bearer, register

CODE = "MFRG-G2DF-MZTW-Q2LK-NBSW-Y3DP"
PLAIN = CODE.replace("-", "")
CHARACTERS = [*map(chr, range(0xD800)), *map(chr, range(0xE000, sys.maxunicode + 1))]

_OTP: TypeAdapter[SecretStr] = TypeAdapter(Otp)
_CODE_TEXT: TypeAdapter[SecretStr] = TypeAdapter(CodeText)


def full_width(text: str) -> str:
    return "".join(chr(ord(character) + 0xFEE0) for character in text)


def in_arabic_digits(text: str) -> str:
    return text.translate({48 + digit: 0x660 + digit for digit in range(10)})


def with_dashes(dash: str) -> Callable[[str], str]:
    return lambda text: text.replace("-", dash)


TYPED: dict[str, Callable[[str], str]] = {
    "lower case": str.lower,
    "full width": full_width,
    "Arabic-Indic digits": in_arabic_digits,
    "en dashes": with_dashes("–"),  # noqa: RUF001 - as word processors write it
    "em dashes with spaces": with_dashes(" — "),
    "non-breaking hyphens": with_dashes("\N{NON-BREAKING HYPHEN}"),
    "minus signs": with_dashes("\N{MINUS SIGN}"),
    "dashes of a Japanese keyboard": with_dashes("\u30fc"),
    "soft hyphens": with_dashes("-\N{SOFT HYPHEN}"),
    "non-breaking and thin spaces": with_dashes("\N{NO-BREAK SPACE}\N{THIN SPACE}"),
    "line breaks": with_dashes("-\r\n"),
    "zero-width spaces": with_dashes("\N{ZERO WIDTH SPACE}"),
    "a byte order mark": "\N{ZERO WIDTH NO-BREAK SPACE}{}".format,
    "marks of direction": "\N{RIGHT-TO-LEFT MARK}\u2066{}\u2069".format,
    "variation selectors": lambda text: text.replace("2", "2\N{VARIATION SELECTOR-16}"),
}


@pytest.mark.parametrize("typed", TYPED.values(), ids=TYPED.keys())
def test_a_long_code_is_read_as_it_was_typed(typed: Callable[[str], str]) -> None:
    for adapter in (_OTP, _CODE_TEXT):
        assert adapter.validate_python(typed(CODE)).get_secret_value() == PLAIN


@pytest.mark.parametrize("typed", TYPED.values(), ids=TYPED.keys())
def test_a_code_of_an_app_is_read_as_it_was_typed(typed: Callable[[str], str]) -> None:
    assert _OTP.validate_python(typed("123-456")).get_secret_value() == "123456"


def test_the_digits_of_every_script_are_read() -> None:
    """The characters whose property Numeric_Type is Decimal."""
    digits = [one for one in CHARACTERS if unicodedata.category(one) == "Nd"]
    assert len(digits) > 600
    for digit in digits:
        assert parse_code(digit) == str(unicodedata.decimal(digit))


def test_every_dash_space_and_invisible_character_is_skipped() -> None:
    skipped = [
        one for one in CHARACTERS if unicodedata.category(one) in ("Pd", "Zs", "Zl", "Zp", "Cf")
    ]
    assert len(skipped) > 150
    assert [hex(ord(one)) for one in skipped if parse_code(f"1{one}2") != "12"] == []


def test_turkish_letters_of_a_phone_are_read() -> None:
    assert parse_code("\N{LATIN CAPITAL LETTER I WITH DOT ABOVE}") == "I"
    assert parse_code("\N{LATIN SMALL LETTER DOTLESS I}") == "I"


@pytest.mark.parametrize(
    "typed",
    [
        "12345",
        full_width("12345"),
        "123456.7",
        "12345\0" + "6",
        "12345a",
        "+12345",
        "\N{VULGAR FRACTION ONE HALF}23456",
        PLAIN[:-1] + "0",
    ],
)
def test_other_text_is_rejected(typed: str) -> None:
    with pytest.raises(ValidationError):
        _OTP.validate_python(typed)


@on_sqlite
async def test_each_call_accepts_codes_as_typed(
    client: AsyncClient, clock: Clock, arthurs_token: str
) -> None:
    headers = bearer(arthurs_token)
    invited = await client.post("/invitations", json={}, headers=headers)
    invitation = invited.json()["code"].replace("-", " – ")  # noqa: RUF001 - meant
    lancelot = await register(client, {**LANCELOT, "invitation": invitation})
    authenticator = await enroll(client, LANCELOT, clock)
    code = in_arabic_digits(authenticator.code())
    assert (await log_in_with(client, LANCELOT, code)).status_code == 200
    recovery_code = full_width(authenticator.recovery_codes[0])
    by_form = {**LANCELOT, "otp": recovery_code, "grant_type": "password"}
    assert (await client.post("/token", data=by_form)).status_code == 200
    forced = await client.post(f"/users/{lancelot}/password-reset", headers=headers)
    typed = "\N{ZERO WIDTH SPACE}".join(forced.json()["code"].split("-"))
    reset = {"code": typed, "new_password": "guinevere in the garden"}
    assert (await client.post("/password-resets/confirm", json=reset)).status_code == 200
