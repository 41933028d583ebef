"""The format of one-time codes: 120 random bits in base32, shown in groups of four.

Secrets of 112 bits or more may be stored as SHA-256 (ASVS 5.0, 6.5.2): they cannot be guessed, so a
slow hash would not protect them better.
"""

import base64
import hashlib
import re
import secrets
import unicodedata

BYTES = 15  # the smallest number above 112 bits that needs no base32 padding
# Codes used to have 16 characters (80 bits). Recovery codes of that length stay valid until used.
PATTERN = re.compile("[A-Z2-7]{24}|[A-Z2-7]{16}")

# The categories of Unicode that parse_code() skips: spaces and line breaks, dashes, invisible
# characters of formatting, and marks, such as the dot of the Turkish İ.
_SKIPPED = {"Zs", "Zl", "Zp", "Pd", "Cf", "Mn", "Me"}
# Dashes of other categories (Dash in PropList.txt), the hyphen bullet, the box-drawing line, and
# the long vowel mark that the dash key of Japanese keyboards types.
_OTHER_DASHES = frozenset("\N{MINUS SIGN}\N{SWUNG DASH}\N{HYPHEN BULLET}\u2500\u30fc")


def generate_code() -> str:
    return base64.b32encode(secrets.token_bytes(BYTES)).decode()


def format_code(code: str) -> str:
    """Returns it as it is shown: ABCD-EFGH-IJKL-MNOP-QRST-UVWX."""
    return "-".join(re.findall("....", code))


def parse_code(typed: str) -> str:
    """Reads a code of any kind as phones and word processors write it: in any case, with spaces,
    dashes and invisible characters, in full-width letters, and in the digits of any script."""
    plain = unicodedata.normalize("NFKD", typed)
    return "".join(map(_ascii_digit, filter(_is_read, plain))).upper()


def hash_code(code: str) -> bytes:
    return hashlib.sha256(code.encode()).digest()


def _is_read(character: str) -> bool:
    skipped = unicodedata.category(character) in _SKIPPED or character in _OTHER_DASHES
    return not skipped and not character.isspace()


def _ascii_digit(character: str) -> str:
    """A decimal digit of another script in ASCII. Other characters stay as they are."""
    return str(unicodedata.decimal(character, character))
