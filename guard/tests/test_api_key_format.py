"""The format of API keys."""

import re

from hourpass.api_keys import (
    KEY_LENGTH,
    PATTERN,
    generate_key,
    id_of,
    is_api_key,
    is_well_formed,
)

# Its checksum was computed independently: base62 of the CRC32 of the 40 characters before it.
KEY = "hp_" + "Ab3dEf9h" + "0123456789abcdefghijklmnopqrstuv" + "2bUpUf"


def test_a_generated_key_is_well_formed_and_has_an_id() -> None:
    key = generate_key()
    assert is_api_key(key)
    assert is_well_formed(key)
    assert len(key) == KEY_LENGTH
    assert re.fullmatch(PATTERN, key)
    assert id_of(key) == key[3:11]
    assert generate_key() != key


def test_the_checksum_does_not_change_between_versions() -> None:
    assert is_well_formed(KEY)
    assert id_of(KEY) == "Ab3dEf9h"


def test_each_changed_character_makes_a_key_malformed() -> None:
    for index in range(3, KEY_LENGTH):
        other = "x" if KEY[index] != "x" else "y"
        assert not is_well_formed(KEY[:index] + other + KEY[index + 1 :])


def test_other_texts_are_malformed() -> None:
    for text in (KEY.upper(), KEY.lower(), f" {KEY}", f"{KEY}\n", KEY[:-1], KEY * 200, "hp_", ""):
        assert not is_well_formed(text)


def test_jwts_and_refresh_tokens_are_not_taken_for_keys() -> None:
    assert not is_api_key("eyJhbGciOiJFUzI1NiJ9.e30.c2ln")
    assert not is_api_key("hpr_0123_4567")
