"""All characters of a username are visible, according to their Unicode properties."""

import sys
import unicodedata

import pytest
from pydantic import ValidationError

from app.users.schemas import NewAccount
from app.users.visible_text import is_visible


def is_accepted(username: str) -> bool:
    try:
        NewAccount.model_validate({"username": username, "password": "excalibur"})
    except ValidationError:
        return False
    return True


@pytest.mark.parametrize(
    "username",
    [
        "Guenièvre du Lac",
        "Guenie\u0300vre",
        "ланселот",
        "ランスロット",
        "गलाहद",
        "لانسلوت",
        "👑🏰",
        "a¨b",
        "\N{FULLWIDTH LATIN SMALL LETTER L}ancelot",
        "⠇⠁⠝⠉⠑⠇⠕⠞",
        "x\u0303\u0323y",
        "du\u00a0Lac",
    ],
)
def test_names_of_all_scripts_are_accepted(username: str) -> None:
    assert is_accepted(username)


@pytest.mark.parametrize(
    "username",
    [
        pytest.param("\u0301lancelot", id="a combining mark first"),
        pytest.param("\u0301", id="a combining mark alone"),
        pytest.param("\u20dd", id="an enclosing mark alone"),
        pytest.param("\u0903", id="a spacing mark alone"),
        pytest.param("du \u0308Lac", id="a combining mark after a space"),
        pytest.param("\u2800", id="a Braille blank alone"),
        pytest.param("lance\u2800lot", id="a Braille blank"),
        pytest.param("\u3164", id="a Hangul filler alone"),
        pytest.param("lance\uffa0lot", id="a half-width filler"),
        pytest.param("lance\u115flot", id="a filler for a consonant"),
        pytest.param("lance\u034flot", id="a grapheme joiner"),
        pytest.param("lance\u17b4lot", id="an inherent vowel"),
        pytest.param("lance\u180blot", id="a Mongolian variation selector"),
        pytest.param("lance\U000e0100lot", id="a further variation selector"),
        pytest.param("lance\U0001d159lot", id="a note without a head"),
        pytest.param("lance\U00016fe4lot", id="a Khitan filler"),
        pytest.param("lance\u2060lot", id="a word joiner"),
        pytest.param("lance\u200dlot", id="a zero-width joiner"),
        pytest.param("lance\u1680lot", id="an Ogham space"),
    ],
)
def test_invisible_characters_are_rejected(username: str) -> None:
    assert not is_accepted(username)


def test_few_characters_of_a_visible_category_are_rejected() -> None:
    """Beyond the default-ignorable ones and the blanks, nothing that people write with."""
    refused = {
        character
        for character in map(chr, range(sys.maxunicode + 1))
        if unicodedata.category(character)[0] in "LMNPS" and not is_visible(character)
    }
    selectors = {name for name in map(unicodedata.name, refused) if "VARIATION SELECTOR" in name}
    assert len(refused) - len(selectors) < 30
    assert {"\u2800", "\u3164", "\u115f"} <= refused
