"""Decides by Unicode's properties whether every character of a name shows something.

Otherwise two names could look the same, or a name like none at all.
"""

import re
import unicodedata

from pydantic_core import PydanticCustomError

# The standard library has no property for default-ignorable letters and marks, nor for the blanks
# of scripts and notations. Their names say what they are, in later versions of Unicode too.
_INVISIBLE_NAME = re.compile(r"\b(BLANK|FILLER|GRAPHEME JOINER|INHERENT|NULL|VARIATION SELECTOR)\b")


def check_visible_text(text: str) -> str:
    """A validator. Raises PydanticCustomError."""
    if text != text.strip():
        raise PydanticCustomError("visible_text", "Must not begin or end with a space")
    if not is_visible(text):
        problem = "Must not contain control or invisible characters"
        raise PydanticCustomError("visible_text", problem)
    if has_stray_mark(text):
        problem = "Must have a letter before each combining mark"
        raise PydanticCustomError("visible_text", problem)
    return text


def is_visible(text: str) -> bool:
    """Whether each character is a space or shows something."""
    return all(character == " " or _is_visible(character) for character in text)


def has_stray_mark(text: str) -> bool:
    """Whether a combining mark has no letter in front of it, so that it joins other text."""
    return any(
        unicodedata.category(character)[0] == "M" and before == " "
        for before, character in zip(" " + text, text, strict=False)
    )


def _is_visible(character: str) -> bool:
    category = unicodedata.category(character)
    if category[0] == "C" or category in ("Zl", "Zp"):  # control, format, unassigned, separators
        return False
    if category == "Zs":  # compared as a space, so it must be one
        return unicodedata.normalize("NFKC", character) == " "
    return not _INVISIBLE_NAME.search(unicodedata.name(character, ""))
