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


def generate_code() -> str:
    return base64.b32encode(secrets.token_bytes(BYTES)).decode()


def format_code(code: str) -> str:
    """Returns it as it is shown: ABCD-EFGH-IJKL-MNOP-QRST-UVWX."""
    return "-".join(re.findall("....", code))


def parse_code(typed: str) -> str:
    """Accepts what users type: with spaces or hyphens, in any case, in full-width characters."""
    return re.sub(r"[\s-]+", "", unicodedata.normalize("NFKC", typed)).upper()


def hash_code(code: str) -> bytes:
    return hashlib.sha256(code.encode()).digest()
